"""Codes that start from data and codes that are reset, through the training loop."""

import json

import pytest
import torch
from representative import slow_but
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from imagetok.config import validate
from imagetok.errors import DivergedError, InputError
from imagetok.tokenizers import Tokenizer
from imagetok.training.config import OptimizerConfig, TokenizerRun
from imagetok.training.optimizer import build_optimizer, reset_optimizer_rows
from imagetok.training.tokenizer import train_tokenizer

LRU = {"kind": "least-recently-used", "timeout": 2, "noise": 0.01}
SPLIT = {"kind": "split", "every": 2, "threshold": 1.0, "noise": 0.01}
QUANTIZERS = {
    "vqvae": {"kind": "vqvae", "init": "kmeans", "reset": LRU},
    "vqvae-ema": {"kind": "vqvae-ema", "init": "data", "reset": {"kind": "random"}},
    "vq-ste++": {"kind": "vq-ste++", "alternation": {"steps": 2}, "reset": SPLIT},
}


def run(quantizer: dict, **train: object) -> TokenizerRun:
    losses = {"vqvae": ["codebook", "commitment"], "vqvae-ema": ["commitment"], "vq-ste++": ["vq"]}
    tree = {
        "kind": "tokenizer",
        "seed": 3,
        "data": {"source": "digits"},
        "tokenizer": {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "init": "torch"},
            "quantizer": {"num_codes": 24, "code_dim": 4, **quantizer},
        },
        "objective": {
            "weights": {n: {"kind": "constant", "value": 1.0} for n in losses[quantizer["kind"]]}
        },
        "train": {
            "steps": 6,
            "batch_size": 64,
            "accumulation": 2,
            "learning_rate": {"kind": "constant", "value": 1e-2},
            "log_every": 1,
            "ema_decay": 0.5,
            "checkpoint_every": 1000,
            "trackers": [],
            **train,
        },
    }
    return validate(tree, TokenizerRun, "test")


def checkpoint(folder, step: int) -> dict[str, torch.Tensor]:
    """Weights, buffers and moments."""
    at = folder / "checkpoints" / f"step-{step:08d}"
    tensors = load_file(at / "model.safetensors")
    state = torch.load(at / "optimizer.bin", weights_only=True)["state"]
    for i, values in state.items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in values.items()}
    return tensors


@pytest.mark.parametrize("name", slow_but(["vqvae-ema"], QUANTIZERS))
def test_a_run_with_reset_that_is_stopped_and_resumed_is_the_same(tmp_path, name):
    train_tokenizer(run(QUANTIZERS[name]), tmp_path / "whole")
    whole = checkpoint(tmp_path / "whole", 6)
    for stop in (1, 3):
        train_tokenizer(run(QUANTIZERS[name], steps=stop), tmp_path / f"{stop}")
        train_tokenizer(run(QUANTIZERS[name]), tmp_path / f"{stop}", resume=True)
        found = checkpoint(tmp_path / f"{stop}", 6)
        assert found.keys() == whole.keys()
        assert [key for key in whole if not torch.equal(found[key], whole[key])] == []
    assert whole["quantizer.renewal.started"]


def test_replaced_rows_have_no_moments_and_no_past_average(tmp_path):
    every = {"kind": "least-recently-used", "timeout": 1, "noise": 0.0}
    train_tokenizer(run({"kind": "vqvae", "init": "normal", "reset": every}, steps=3), tmp_path)
    tensors = checkpoint(tmp_path, 3)
    codebook = tensors["quantizer.codebook"]
    average = load_file(tmp_path / "tokenizer" / "model.safetensors")["quantizer.codebook"]
    moments = [
        v for k, v in tensors.items() if k.startswith("optimizer") and v.shape == codebook.shape
    ]
    assert len(moments) == 2
    fresh = ~moments[0].any(dim=1)
    assert fresh.any() and not fresh.all()  # some codes were idle in the last step, some were not
    assert torch.equal(fresh, ~moments[1].any(dim=1))
    assert torch.equal(average[fresh], codebook[fresh])
    assert not torch.isclose(average[~fresh], codebook[~fresh]).all(dim=1).any()


def test_only_the_replaced_rows_are_forgotten():
    model = nn.ParameterDict({"codebook": nn.Parameter(torch.randn(4, 3))})
    average = AveragedModel(model)
    optimizer = build_optimizer(model, OptimizerConfig())
    model["codebook"].square().sum().backward()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    before = {k: v.clone() for k, v in optimizer.state[model["codebook"]].items()}
    past = average.module["codebook"].clone()
    rows = torch.tensor([False, True, False, True])
    reset_optimizer_rows(optimizer, model, average, {"codebook": rows})
    for key, value in optimizer.state[model["codebook"]].items():
        if key == "step":
            assert torch.equal(value, before[key])
        else:
            assert before[key].all() and not value[rows].any()
            assert torch.equal(value[~rows], before[key][~rows])
    assert torch.equal(average.module["codebook"][rows], model["codebook"][rows])
    assert torch.equal(average.module["codebook"][~rows], past[~rows])


@pytest.mark.parametrize("name", ["vqvae", "vqvae-ema"])
def test_micro_batches_start_and_reset_the_same_codes(tmp_path, name):
    """Nothing is drawn in the forward pass where all vectors are kept: only sums may differ."""
    quantizer = {**QUANTIZERS[name], "num_codes": 1024}  # 64 images of 16 vectors: all are kept
    found = []
    for accumulation in (1, 2):
        config = run(quantizer, accumulation=accumulation, steps=1)
        train_tokenizer(config, tmp_path / f"{accumulation}")
        tensors = checkpoint(tmp_path / f"{accumulation}", 1)
        assert tensors["quantizer.renewal.started"]
        found.append(tensors["quantizer.codebook"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_a_tokenizer_that_computes_nan_is_refused(tmp_path):
    train_tokenizer(run(QUANTIZERS["vqvae"], steps=1), tmp_path / "run")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "run" / "tokenizer")
    with torch.no_grad():
        next(tokenizer.encoder.parameters()).fill_(1e38)  # finite, but not what it computes
    with pytest.raises(InputError, match=r"NaN or infinite for 2 of .*3 images, first for image 1"):
        tokenizer.encode(torch.stack([torch.full((1, 8, 8), v) for v in (0.5, 1.0, 0.9)]))


def test_training_says_which_terms_are_not_finite(tmp_path):
    rate = {"kind": "constant", "value": 1e25}
    config = run({"kind": "vqvae"}, learning_rate=rate, ema_decay=None)
    with pytest.raises(DivergedError, match=r"the loss is not finite \(.*commitment.*mse"):
        train_tokenizer(config, tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(records) <= 2
