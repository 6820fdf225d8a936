"""The network `vqgan`: sizes of the papers, attention, recomputed activations.

That it equals the networks of its family is tested with conversions.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import JanusVQVAE, JanusVQVAEConfig

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.networks import VQGANConfig, build_network
from imagetok.networks.vqgan import Attention, Doubling, GroupNorm
from imagetok.seeding import reseed_global


def pair(config: VQGANConfig, features: int = 8) -> tuple[nn.Module, nn.Module]:
    reseed_global(0)
    encoder, decoder = build_network(config, 3, features, features)
    for parameter in itertools.chain(encoder.parameters(), decoder.parameters()):
        if parameter.ndim == 1:  # norms and biases that do something
            nn.init.normal_(parameter, 0.5, 0.3)
    return encoder, decoder


@pytest.mark.parametrize(
    ("config", "features", "expected"),
    [
        # LlamaGen's VQ-16 and transformers' JanusVQVAE without their codebooks: 343 tensors less 1
        (VQGANConfig(), 8, (71_883_403 - 16_384 * 8, 342)),
        (VQGANConfig(multipliers=(1, 2, 2, 4)), 8, None),  # LlamaGen's VQ-8
    ],
)
def test_sizes_of_published_networks(config, features, expected):
    with torch.device("meta"):
        networks = build_network(config, 3, features, features)
        other = JanusVQVAE(
            JanusVQVAEConfig(channel_multiplier=list(config.multipliers), embed_dim=features)
        )
    found = [p for network in networks for p in network.parameters()]
    theirs = [p for n, p in other.named_parameters() if not n.startswith("quantize")]
    # Ours are linear layers where theirs are 1 x 1 convolutions.
    shapes = [sorted(tuple(n for n in p.shape if n > 1) for p in ps) for ps in (found, theirs)]
    assert shapes[0] == shapes[1]
    if expected is not None:
        assert (sum(p.numel() for p in found), len(found)) == expected


def test_attention_is_where_it_is_asked_for():
    def places(**keys: object) -> list[int]:
        tree = {"width": 32, "multipliers": [1, 1, 1], "blocks": 2, **keys}
        encoder, _ = pair(validate(tree, VQGANConfig, "test"))
        return [sum(isinstance(part, Attention) for part in encoder.modules())]

    assert places() == [2 + 1]
    assert places(middle_attention=False) == [2]
    assert places(attention=[1, 2], middle_attention=False) == [4]
    assert places(attention=[]) == [1]


def test_recomputed_activations_change_no_gradient():
    config = VQGANConfig(width=32, multipliers=(1, 2), blocks=1, latent_channels=8, dropout=0.2)
    images = torch.rand(2, 3, 16, 16)
    gradients = []
    for recomputes in (False, True):
        encoder, decoder = pair(config)
        if recomputes:
            encoder.recompute_activations()
            decoder.recompute_activations()
        reseed_global(1)
        decoder(encoder(images)).square().mean().backward()
        gradients.append([p.grad for n in (encoder, decoder) for p in n.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("side", [4, 33])  # few positions, and more than have stored weights
def test_attention_is_the_same_in_training(side):
    torch.manual_seed(0)
    attention = Attention(VQGANConfig(width=8, norm_groups=2), 8).double()
    x = torch.randn(2, 8, side, side, dtype=torch.float64)
    with torch.no_grad():
        expected = attention(x)
    assert_close(attention(x), expected)


def test_doubling_is_a_convolution_of_repeated_pixels():
    torch.manual_seed(0)
    doubling, x = Doubling(5).double(), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    parts = [x.requires_grad_(), *doubling.parameters()]
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = nn.functional.conv2d(repeated, doubling.weight, doubling.bias, padding=1)
    found = doubling(x)
    assert_close(found, expected)
    seen = torch.randn_like(found)
    gradients = (torch.autograd.grad((seen * y).sum(), parts) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


def test_group_norm_in_bfloat16_has_the_gradient_of_float32():
    torch.manual_seed(0)
    norm, x = GroupNorm(4, 16), torch.randn(2, 16, 6, 6).bfloat16().float()
    plain = nn.functional.group_norm(x.requires_grad_(), 4, norm.weight, norm.bias, norm.eps)
    half = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(half)
    assert found.dtype == torch.bfloat16 and torch.equal(found, plain.bfloat16())
    seen = torch.randn_like(plain).bfloat16()
    (expected,) = torch.autograd.grad((seen * plain).sum(), [x])
    (gradient,) = torch.autograd.grad((seen * found).sum(), [half])
    assert torch.equal(gradient, expected.bfloat16())


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"width": 48}, "norm_groups: expected a divisor of width times each of multipliers"),
        ({"attention": [3]}, "attention: expected pixels per position at a level, 1, 2, 4, 8, 16"),
        ({"multipliers": []}, "multipliers: .* at least 1 item"),
    ],
)
def test_networks_that_cannot_be_are_refused(tree, says):
    with pytest.raises(ConfigError, match=says):
        validate(tree, VQGANConfig, "here")


def test_a_group_norm_of_one_value_is_its_bias():
    """An image of one position is normed as it is beside others, where torch's layer refuses it."""
    encoder, _ = pair(VQGANConfig(width=32, multipliers=(1, 1), blocks=1, latent_channels=8))
    encoder.eval()
    images = torch.rand(3, 3, 2, 2)
    with torch.no_grad():
        together = encoder(images)
        alone = torch.cat([encoder(image[None]) for image in images])
    assert_close(alone, together, rtol=1e-3, atol=1e-4)
