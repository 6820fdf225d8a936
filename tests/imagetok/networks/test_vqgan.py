"""The network `vqgan`: sizes of the papers, attention, recomputed activations.

That it equals the networks of its family is tested with conversions.
"""

import itertools

import pytest
import torch
from torch import nn
from transformers import JanusVQVAE, JanusVQVAEConfig

from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.networks import VQGANConfig, build_network
from imagetok.networks.vqgan import Attention
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
