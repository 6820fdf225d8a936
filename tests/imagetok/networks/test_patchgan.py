"""PatchGAN: its layers, and one image's logits by themselves."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from imagetok.networks.patchgan import PatchGAN, smallest_side
from imagetok.seeding import reseed_global


@pytest.mark.parametrize(
    ("layers", "expected"),
    # by hand: weights and biases of 4 x 4 convolutions, and two values a channel of each norm
    [
        (3, 3072 + 64 + 131_072 + 256 + 524_288 + 512 + 2_097_152 + 1024 + 8192 + 1),
        (1, 3072 + 64 + 131_072 + 256 + 2048 + 1),
    ],
)
def test_parameters_of_the_published_one(layers, expected):
    assert sum(p.numel() for p in PatchGAN(3, 64, layers).parameters()) == expected


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_patches_are_two_to_the_layers_apart(layers):
    network, side = PatchGAN(1, 4, layers), 2**layers
    assert network(torch.zeros(2, 1, 6 * side, 8 * side)).shape == (2, 1, 4, 6)
    assert network(torch.zeros(1, 1, smallest_side(layers), 8 * side)).shape == (1, 1, 1, 6)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        network(torch.zeros(1, 1, 2 * side, 8 * side))


def test_logits_of_an_image_do_not_depend_on_others():
    reseed_global(0)
    network = PatchGAN(3, 8, 2)
    images = torch.randn(3, 3, 24, 24)
    alone = torch.cat([network(image[None]) for image in images])
    assert_close(network(images), alone)


def test_it_starts_with_small_weights():
    reseed_global(0)
    network = PatchGAN(3, 64, 3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert_close(module.weight.std().item(), 0.02, rtol=0.1, atol=0)
