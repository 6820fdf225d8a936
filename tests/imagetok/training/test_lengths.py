"""Schedules without a length: a run records theirs, and keeps them when it is extended."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imagetok.config import read_yaml, validate
from imagetok.errors import ConfigError
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

KL = "objective.weights.kl"
RATE = "train.learning_rate"


def config(steps: int, length: int | None = None, **train: object) -> TokenizerRun:
    """A tiny run with three schedules; length: of each, None to leave it out."""
    lengths = {} if length is None else {"steps": length}
    rate = {"kind": "warmup_cosine", "peak": 1e-2, "end": 1e-3, "warmup": 1, **lengths}
    tree = {
        "seed": 3,
        "data": {"source": "digits"},
        "tokenizer": {
            "image": {"mode": "grey", "height": 8, "width": 8},
            "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "dropout": 0.1},
            "quantizer": {"kind": "edvae", "num_codes": 8, "code_dim": 4},
        },
        "objective": {
            "weights": {"kl": {"kind": "quarter_cosine", "start": 0.0, "end": 1e-2, **lengths}},
            "temperature": {"kind": "quarter_cosine", "start": 1.0, "end": 0.1, **lengths},
        },
        "train": {
            "steps": steps,
            "batch_size": 600,
            "learning_rate": rate,
            "ema_decay": 0.9,
            "log_every": 1,
            "evaluate_every": 3,
            "checkpoint_every": 3,
            "trackers": [],
            **train,
        },
    }
    return validate(tree, TokenizerRun, "test")


def train(config: TokenizerRun, run: Path, resume: bool = False) -> None:
    train_tokenizer(config, run, resume=resume, device="cpu")


def result(run: Path) -> tuple[bytes, bytes]:
    weights = (run / "tokenizer" / "model.safetensors").read_bytes()
    return weights, (run / "metrics.jsonl").read_bytes()


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step:08d}"
    return {f"{n}.{k}": v for n in ("model", "average")
            for k, v in load_file(folder / f"{n}.safetensors").items()}  # fmt: skip


def test_an_extended_run_is_one_of_the_recorded_lengths(tmp_path, caplog):
    train(config(steps=3), tmp_path / "run")
    assert read_yaml(tmp_path / "run" / "config.yaml")["train"]["learning_rate"]["steps"] == 3
    train(config(steps=6), tmp_path / "run", resume=True)
    for key in (f"{KL}.steps", "objective.temperature.steps", f"{RATE}.steps"):
        assert f"{key} stays 3, as recorded in {tmp_path / 'run' / 'config.yaml'}" in caplog.text
    assert f"--set {RATE}.steps=6 changes it" in caplog.text
    recorded = read_yaml(tmp_path / "run" / "config.yaml")
    assert recorded == config(steps=6, length=3).model_dump(mode="json")
    train(config(steps=6, length=3), tmp_path / "whole")
    assert result(tmp_path / "run") == result(tmp_path / "whole")
    left, right = checkpoint(tmp_path / "run", 6), checkpoint(tmp_path / "whole", 6)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_fresh_run_of_other_steps_has_other_lengths(tmp_path, caplog):
    caplog.set_level(logging.INFO, "imagetok")
    train(config(steps=2), tmp_path / "run", resume=True)  # nothing there: it starts
    assert "stays" not in caplog.text
    train(config(steps=2, length=2), tmp_path / "whole")
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_length_that_is_given_is_taken(tmp_path, caplog):
    train(config(steps=2), tmp_path)
    with pytest.raises(ConfigError, match=rf"{KL}\.steps: 2 in the folder, 4 requested"):
        train(config(steps=4, length=4), tmp_path, resume=True)
    rate = {"kind": "warmup_cosine", "peak": 1e-2, "end": 1e-3, "warmup": 1, "steps": 4}
    train(config(steps=4, learning_rate=rate), tmp_path, resume=True)
    recorded = read_yaml(tmp_path / "config.yaml")
    assert recorded["train"]["learning_rate"]["steps"] == 4
    assert recorded["objective"]["weights"]["kl"]["steps"] == 2
    assert f"{RATE}.steps: continuing with 4 instead of 2" in caplog.text
