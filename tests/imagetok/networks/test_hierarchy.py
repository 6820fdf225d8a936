"""The VQ-VAE-2 network: its published size, its grids, and what each level can see."""

import torch
from torch.testing import assert_close

from imagetok import seeding
from imagetok.networks import Hierarchy, VQVAE2Config

SMALL = VQVAE2Config(width=8, residual_width=4, residual_layers=1)


def test_parameters_of_the_public_code() -> None:
    with torch.device("meta"):
        network = Hierarchy(VQVAE2Config(), 3, (64, 64), (64, 64))

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert [count(m) for m in network.encoders] == [287_232, 364_160]
    assert [count(m) for m in network.read_outs] == [8_256, 12_352]
    assert [count(m) for m in network.conditions] == [287_232]
    assert [count(m) for m in network.doublings] == [65_600]
    assert count(network.decoder) == 364_035
    assert count(network) == 1_388_867


def test_every_level_has_its_grid_and_channels() -> None:
    reads, gives = (3, 5, 7), (2, 4, 6)
    network = Hierarchy(SMALL, 1, reads, gives)
    factors = SMALL.downsamplings(3)
    assert factors == (16, 8, 4)
    features = network.features(torch.rand(2, 1, 32, 48))
    context, seen = None, 0
    for level, (feature, factor) in enumerate(zip(features, factors, strict=True)):
        grid = (32 // factor, 48 // factor)
        assert feature.shape == (2, 8, *grid)
        assert network.read_out(level, feature, context).shape == (2, reads[level], *grid)
        context = network.descend(level, context, torch.rand(2, gives[level], *grid))
        seen += gives[level]
        assert context.shape == (2, seen, *grid)
    assert context is not None and network.decode(context).shape == (2, 1, 32, 48)


def test_a_level_is_read_off_from_the_levels_above_it() -> None:
    """And from nothing else: the features below never reach a level above."""
    seeding.reseed_global(0)
    network = Hierarchy(SMALL, 1, (3, 5), (2, 4))
    features = [f.requires_grad_() for f in map(torch.rand, [(2, 8, 2, 3), (2, 8, 4, 6)])]
    top = torch.rand(2, 2, 2, 3, requires_grad=True)
    context = network.descend(0, None, top)
    assert torch.equal(context, top)
    bottom = network.read_out(1, features[1], context)
    gradients = torch.autograd.grad(bottom.sum(), [top, features[1]])
    assert all(gradient.any() for gradient in gradients)
    other = network.read_out(1, features[1], network.descend(0, None, top + 1))
    assert not torch.equal(other, bottom)
    assert_close(network.read_out(0, features[0], None), network.read_outs[0](features[0]))
