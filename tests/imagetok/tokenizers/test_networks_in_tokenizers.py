"""Every network with one grid, in a tokenizer: its pixel range stays inside, norms hold still."""

from pathlib import Path

import pytest
import torch

from imagetok import seeding
from imagetok.config import validate
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

IMAGES = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
NETWORKS = {
    "conv": {"groups": 2, "blocks": 1},
    "sonnet": {"residual_width": 4},
    "sqvae": {},
    "kaokore": {},
    "vqgan": {"multipliers": [1, 1, 2], "blocks": 1, "latent_channels": 4, "norm_groups": 4},
}


def build(network: str, quantizer: str = "edvae") -> Tokenizer:
    tree = {
        "image": {"mode": "rgb", "height": 8, "width": 12},
        "network": {"kind": network, "width": 8} | NETWORKS[network],
        "quantizer": {"kind": quantizer, "num_codes": 16, "code_dim": 4},
    }
    seeding.reseed_global(0)
    return build_tokenizer(validate(tree, TokenizerConfig, "test"))


@pytest.mark.parametrize("quantizer", ["edvae", "vqvae-ema"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_loaded_tokenizer_is_the_saved_one(tmp_path: Path, network: str, quantizer: str) -> None:
    saved = build(network, quantizer)
    saved(IMAGES)  # moves running statistics
    saved.save_pretrained(tmp_path / "t")
    loaded = Tokenizer.from_pretrained(tmp_path / "t")
    assert loaded.fingerprint == saved.fingerprint
    assert torch.equal(loaded.encode(IMAGES)[0], saved.encode(IMAGES)[0])
    assert torch.equal(loaded.reconstruct(IMAGES), saved.reconstruct(IMAGES))


@pytest.mark.parametrize("network", NETWORKS)
def test_testing_in_mid_training_changes_nothing(network: str) -> None:
    tokenizer = build(network)
    tokenizer(IMAGES)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    codes = tokenizer.encode(IMAGES)
    images = tokenizer.decode(codes)
    assert torch.equal(tokenizer.reconstruct(IMAGES).clamp(0, 1), images)
    assert torch.equal(tokenizer.encode(IMAGES[:1])[0], codes[0][:1])
    assert tokenizer.training
    after = tokenizer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_and_the_image_are_on_the_public_range(network: str) -> None:
    tokenizer = build(network).eval()
    pixels = tokenizer.config.network.pixels
    seen: list[torch.Tensor] = []
    tokenizer.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokenizer.decoder.register_forward_hook(lambda module, inputs, out: seen.append(out))
    out = tokenizer(IMAGES)
    torch.testing.assert_close(seen[0], pixels.low + (pixels.high - pixels.low) * IMAGES)
    torch.testing.assert_close(out.x_hat, (seen[1] - pixels.low) / (pixels.high - pixels.low))
    expected = (out.x_hat - IMAGES).square().mean()
    torch.testing.assert_close(out.losses["reconstruction"], expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_directions_of_label_maps_can_reach_their_class(network: str) -> None:
    """A sigmoid or tanh before vMF's softplus would hold every direction near the middle."""
    tree = {
        "image": {"mode": "labels", "num_classes": 6, "height": 8, "width": 12}
        | {"interpolation": "nearest"},
        "network": {"kind": network, "width": 8} | NETWORKS[network],
        "quantizer": {"kind": "vmf-sqvae", "num_codes": 16, "code_dim": 4},
        "likelihood": {"kind": "vmf"},
    }
    seeding.reseed_global(0)
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test"))
    with torch.no_grad():
        for parameter in tokenizer.decoder.parameters():
            parameter.mul_(30)
        codes = torch.arange(12).view(2, 2, 3)
        out = tokenizer.decoder(tokenizer.quantizer.decode((codes,)))
    assert out.abs().max() > 2
