"""The library's quantizers in the loop: they learn, resume bit for bit, and codes are kept."""

from pathlib import Path

import pytest
import torch
from representative import slow_but
from safetensors.torch import load_file

from imagetok.codes.decode import decode_in_batches
from imagetok.codes.encode import encode_dataset, make_plan
from imagetok.codes.reader import open_codes
from imagetok.codes.verify import verify_codes
from imagetok.config import validate
from imagetok.data import open_images, parse_spec
from imagetok.images import from_stored
from imagetok.tokenizers import Tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

PULL = {"codebook": 1.0, "commitment": 0.25}
KINDS = {
    "fsq": ({"levels": [4, 4, 4]}, {}),
    "lfq": (
        {"code_dim": 6, "temperature": 1.0},
        {"sample_entropy": 1e-3, "diversity": 0.03, "commitment": 0.02},
    ),
    "residual-vq": ({"num_codes": 16, "code_dim": 6, "num_levels": 3}, PULL),
    "simvq": ({"num_codes": 64, "code_dim": 6}, PULL),
    "rotation-vq": ({"num_codes": 64, "code_dim": 6}, PULL),
}


def config(kind: str, **train: object) -> TokenizerRun:
    section, weights = KINDS[kind]
    tree = {
        "kind": "tokenizer",
        "data": {"source": "digits"},
        "tokenizer": {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {"kind": "conv", "width": 8, "groups": 2, "init": "torch",
                        "residual_gain": 0.5},
            "quantizer": {"kind": kind, **section},
        },
        "objective": {
            "weights": {k: {"kind": "constant", "value": v} for k, v in weights.items()}
        },
        "train": {
            "steps": 200, "batch_size": 16, "learning_rate": {"kind": "constant", "value": 3e-3},
            "evaluate_every": 200, "checkpoint_every": 200, "trackers": [], **train,
        },
    }  # fmt: skip
    return validate(tree, TokenizerRun, "test")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_200_steps_on_digits_learn(kind: str, tmp_path: Path) -> None:
    measures = train_tokenizer(config(kind), tmp_path / "run", device="cpu")
    dataset, split = parse_spec("digits:test")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    pixels = from_stored(
        open_images(dataset, split, tokenizer.image).read(range(180)).images, tokenizer.image
    )
    assert measures["mse"] < 0.75 * (pixels - pixels.mean(dim=0)).square().mean()
    codes = tokenizer.encode(pixels)
    assert len(codes) == (3 if kind == "residual-vq" else 1)
    assert torch.stack(codes).flatten(1).unique(dim=1).shape[1] >= 8
    assert torch.equal(tokenizer.decode(codes), tokenizer.reconstruct(pixels).clamp(0, 1))


def test_shards_of_residual_codes_come_back(tmp_path: Path) -> None:
    train_tokenizer(config("residual-vq", steps=2), tmp_path / "run", device="cpu")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    dataset, split = parse_spec("digits:test")
    images = open_images(dataset, split, tokenizer.image)
    plan = make_plan(tokenizer, images, source="digits:test", name="test", samples_per_shard=100)
    encode_dataset(tokenizer, images, tmp_path / "codes", plan, threads=1)
    shards = open_codes(tmp_path / "codes")
    assert shards.num_codes == (16, 16, 16) and shards.grids == ((4, 4),) * 3
    assert verify_codes(tmp_path / "codes") == []
    stored = shards.__getitems__(range(180)).codes
    expected = tokenizer.encode(from_stored(images.read(range(180)).images, tokenizer.image))
    assert all(torch.equal(one, other) for one, other in zip(stored, expected, strict=True))
    assert torch.equal(decode_in_batches(tokenizer, stored), tokenizer.decode(expected))


@pytest.mark.parametrize("kind", slow_but(["fsq", "residual-vq"], KINDS))
def test_a_resumed_run_is_bit_identical(kind: str, tmp_path: Path) -> None:
    whole = {"steps": 5, "evaluate_every": 5, "checkpoint_every": 3, "ema_decay": 0.9}
    train_tokenizer(config(kind, **whole), tmp_path / "whole", device="cpu")
    begun = config(kind, **{**whole, "steps": 3})
    train_tokenizer(begun, tmp_path / "parts", device="cpu")
    train_tokenizer(config(kind, **whole), tmp_path / "parts", resume=True, device="cpu")
    for name in ("model", "average"):
        one, other = (
            load_file(tmp_path / run / "checkpoints" / "step-00000005" / f"{name}.safetensors")
            for run in ("whole", "parts")
        )
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
