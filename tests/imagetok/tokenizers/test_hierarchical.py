"""Tokenizers of several grids: laws of encode and decode, what conditions what, and refusals."""

from pathlib import Path

import pytest
import torch
from hierarchical_samples import build_mixed
from torch import Tensor

from imagetok.config import validate
from imagetok.data.base import ArrayImages
from imagetok.errors import ConfigError, InputError, NotFiniteError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.tokenizers import Tokenizer, TokenizerConfig
from imagetok.tokenizers.hierarchical import HierarchicalTokenizer

VQ = {"kind": "vqvae-ema", "num_codes": 16, "code_dim": 4}
EDVAE = {"kind": "edvae", "num_codes": 12, "code_dim": 6}
DVAE = {"kind": "dvae", "num_codes": 9, "code_dim": 5}
IMAGES = torch.rand(3, 3, 16, 32, generator=torch.Generator().manual_seed(1))


def tree(*quantizers: dict[str, object], height: int = 16) -> dict[str, object]:
    return {
        "image": {"mode": "rgb", "height": height, "width": 32},
        "network": {"kind": "vqvae2", "width": 8, "residual_width": 4, "residual_layers": 1},
        "quantizers": list(quantizers),
    }


def build(*quantizers: dict[str, object]) -> HierarchicalTokenizer:
    return build_mixed(tree(*quantizers), IMAGES)


def other_codes(codes: tuple[Tensor, ...], level: int, k: int) -> tuple[Tensor, ...]:
    return tuple((c + 1) % k if i == level else c for i, c in enumerate(codes))


def test_codes_are_coarse_to_fine() -> None:
    tokenizer = build(VQ, EDVAE)
    assert tokenizer.num_codes == (16, 12)
    assert tokenizer.grids == ((2, 4), (4, 8))
    codes = tokenizer.encode(IMAGES)
    assert [tuple(level.shape) for level in codes] == [(3, 2, 4), (3, 4, 8)]
    assert all(len(level.unique()) > 1 for level in codes)
    assert tokenizer.decode(codes).shape == IMAGES.shape


@pytest.mark.parametrize("quantizers", [(VQ, VQ), (VQ, EDVAE), (EDVAE, VQ, DVAE)])
def test_decoding_codes_is_reconstructing(quantizers: tuple[dict[str, object], ...]) -> None:
    tokenizer = build(*quantizers)
    codes = tokenizer.encode(IMAGES)
    assert len(codes) == len(quantizers)
    assert torch.equal(tokenizer.decode(codes), tokenizer.reconstruct(IMAGES).clamp(0, 1))
    again, maps = tokenizer.encode_with_certainty(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(codes, again, strict=True))
    assert {int(name[-1]) for name in maps} == set(range(len(quantizers)))
    for level, quantizer in enumerate(quantizers):
        told = "margin" if quantizer["kind"] == "vqvae-ema" else "entropy"
        assert maps[f"{told}_level{level}"].shape == (3, *tokenizer.grids[level])


def test_without_noise_training_reconstructs_as_testing_does() -> None:
    """VQ draws nothing, and its straight-through value is the code's but for rounding."""
    tokenizer = build(VQ, VQ)
    out = tokenizer(IMAGES)
    assert all(map(torch.equal, out.indices, tokenizer.encode(IMAGES)))
    torch.testing.assert_close(out.x_hat, tokenizer.reconstruct(IMAGES), rtol=1e-4, atol=1e-5)
    assert set(out.losses) == {"reconstruction", "commitment_level0", "commitment_level1"}


def test_every_level_reaches_the_image() -> None:
    tokenizer = build(VQ, EDVAE, DVAE)
    codes = tokenizer.encode(IMAGES)
    images = [tokenizer.decode(codes)]
    for level, k in enumerate(tokenizer.num_codes):
        images.append(tokenizer.decode(other_codes(codes, level, k)))
    assert all(not torch.equal(images[0], image) for image in images[1:])


def test_the_bottom_is_encoded_given_the_top() -> None:
    """With another codebook at the top, the same features are read off otherwise below."""
    tokenizer = build(VQ, VQ)
    codes = tokenizer.encode(IMAGES)
    with torch.no_grad():
        tokenizer.quantizers[0].codebook.mul_(3)
        tokenizer.quantizers[0].codebook.copy_(tokenizer.quantizers[0].codebook.flip(0))
    changed = tokenizer.encode(IMAGES)
    assert not torch.equal(codes[1], changed[1])
    with torch.no_grad():  # and the other way round nothing reaches the top
        tokenizer.quantizers[1].codebook.mul_(3)
    assert torch.equal(tokenizer.encode(IMAGES)[0], changed[0])


def test_each_level_is_updated_with_its_own_statistics() -> None:
    tokenizer = build(VQ, EDVAE, VQ)
    out = tokenizer(IMAGES)
    expected = []
    for level in (0, 2):
        own = {k[2:]: v for k, v in out.stats.items() if k.startswith(f"{level}.")}
        assert own["counts"].sum() == out.indices[level].numel()
        alone = build(VQ, EDVAE, VQ).quantizers[level]
        alone.update(own, torch.Generator())
        expected.append(alone.codebook)
    before = tokenizer.quantizers[1].codebook.clone()
    tokenizer.update(out.stats, torch.Generator())
    assert torch.equal(tokenizer.quantizers[0].codebook, expected[0])
    assert torch.equal(tokenizer.quantizers[2].codebook, expected[1])
    assert torch.equal(tokenizer.quantizers[1].codebook, before)


def test_commitment_moves_no_code_and_only_what_is_above() -> None:
    tokenizer = build(VQ, VQ)
    losses = tokenizer(IMAGES).losses
    names, parameters = zip(*tokenizer.named_parameters(), strict=True)
    reached = {}
    for level in (0, 1):
        gradients = torch.autograd.grad(
            losses[f"commitment_level{level}"], parameters, retain_graph=True, allow_unused=True
        )
        reached[level] = {n for n, g in zip(names, gradients, strict=True) if g is not None}
    assert not any("quantizers" in n or "decoder" in n for n in reached[0] | reached[1])
    assert not any(n.startswith(("network.read_outs.1", "network.cond")) for n in reached[0])
    assert any(n.startswith("network.conditions.0") for n in reached[1])


def test_a_loaded_tokenizer_is_the_saved_one(tmp_path: Path) -> None:
    saved = build(VQ, EDVAE)
    saved.save_pretrained(tmp_path / "t")
    loaded = Tokenizer.from_pretrained(tmp_path / "t")
    assert isinstance(loaded, HierarchicalTokenizer)
    assert loaded.config == saved.config and loaded.fingerprint == saved.fingerprint
    assert all(map(torch.equal, loaded.encode(IMAGES), saved.encode(IMAGES)))
    assert torch.equal(loaded.reconstruct(IMAGES), saved.reconstruct(IMAGES))
    card = (tmp_path / "t" / "README.md").read_text()
    assert "codes of 2 x 4, 4 x 8 with codebook size 16, 12" in card
    assert "# vqvae2 vqvae-ema edvae tokenizer" in card


def test_every_level_is_measured() -> None:
    tokenizer = build(VQ, EDVAE)
    pixels = (IMAGES * 255).to(torch.uint8)
    dataset = ArrayImages(pixels, name="noise", split="test", contract=tokenizer.image)
    found = evaluate_reconstruction(tokenizer, dataset)
    codes, maps = tokenizer.encode_with_certainty(pixels / 255)
    for level, indices in enumerate(codes):
        assert found[f"codes_used_level{level}"] == len(indices.unique())
        assert found[f"num_codes_level{level}"] == tokenizer.num_codes[level]
    mean = maps["entropy_level1"].double().mean().item()
    assert found["entropy_level1"] == pytest.approx(mean, rel=1e-6)
    assert found["max_logit_level1"] == pytest.approx(maps["top_logit_level1"].max().item())
    assert not {"entropy", "entropy_level0", "max_logit_level0", "perplexity"} & found.keys()


def test_a_flat_config_is_dumped_as_ever() -> None:
    """So that the fingerprints of flat tokenizers stay."""
    flat = tree() | {"network": {"kind": "conv"}, "quantizer": EDVAE}
    del flat["quantizers"]
    config = validate(flat, TokenizerConfig, "test")
    assert list(config.model_dump(mode="json")) == ["image", "network", "quantizer", "likelihood"]
    assert config.method == ("edvae",) and config.losses == ("kl",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantizers": [VQ]}, r"set `quantizers`, a list of two or more .*\(found 1\)"),
        ({"quantizers": []}, r"two or more sections, coarse to fine.*\(found 0\)"),
        (
            {"quantizer": VQ},
            r"'vqvae2' has a grid of codes per level.*\(found `quantizer` and `quantizers`\)",
        ),
        ({"network": {"kind": "sonnet"}}, r"'sonnet' has one grid.*\(found `quantizers`\)"),
        ({"network": {"kind": "sonnet"}, "quantizers": []}, r"one section `quantizer`.*none"),
        ({"quantizers": [VQ, VQ, VQ, VQ]}, r"multiples of 32.*\(found 16 x 32\)"),
        ({"quantizers": [VQ, EDVAE | {"decay": 0.9}]}, "quantizers.1.decay: unknown key"),
        ({"quantizers": [VQ, {"kind": "vq"}]}, "quantizers.1.kind: expected one of"),
        ({"network": {"kind": "vqvae3"}}, "network.kind: expected one of"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        validate(tree(VQ, VQ) | changes, TokenizerConfig, "here")


def test_codes_of_other_levels_are_refused() -> None:
    tokenizer = build(VQ, EDVAE)
    top, bottom = tokenizer.encode(IMAGES)
    with pytest.raises(InputError, match="expected a tuple of 2 code maps, found 1 level"):
        tokenizer.decode((bottom,))
    with pytest.raises(InputError, match=r"level 0: expected codes of shape \(B, 2, 4\)"):
        tokenizer.decode((bottom, top))
    with pytest.raises(InputError, match=r"level 1: expected codes in \[0, 12\)"):
        tokenizer.decode((top, torch.full_like(bottom, 12)))


def test_an_encoder_that_computes_nan_is_refused() -> None:
    tokenizer = build(VQ, EDVAE)
    with torch.no_grad():
        next(tokenizer.network.parameters()).fill_(torch.nan)
    for compute in (tokenizer.encode, tokenizer.reconstruct):
        with pytest.raises(NotFiniteError, match="NaN or infinite for 3 of the batch's 3 images"):
            compute(IMAGES)
