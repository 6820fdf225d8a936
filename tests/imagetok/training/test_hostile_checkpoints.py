"""Checkpoints that were changed and sealed again: refused by name, whatever part does not fit."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from representative import slow_but
from safetensors.torch import load_file, save_file
from test_resume import config

from imagetok.durable import MANIFEST, seal_folder
from imagetok.errors import CheckpointError
from imagetok.training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    train_tokenizer(config(steps=4), folder)
    return folder


def record(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tree = json.loads((folder / "state.json").read_bytes())
        (folder / "state.json").write_text(json.dumps(tree | changes))

    return change


def tensors(file: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = load_file(folder / file)
        edit(found)
        save_file(found, folder / file, metadata={"format": "pt"})

    return change


def optimizer(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = torch.load(folder / "optimizer.bin", weights_only=True)
        edit(found)
        torch.save(found, folder / "optimizer.bin")

    return change


def bytes_of(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


def gone(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


class Trap:
    """What a pickle would call."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


CODEBOOK = "quantizer.codebook"
CHANGES = {
    "step -5": record(step=-5),
    "step of another folder": record(step=3),
    "step as text": record(step="4"),
    "step beyond all": record(step=2**63),
    "sizes below 0": record(metrics_bytes=-1),
    "sizes beyond the file": record(timing_bytes=2**40),
    "no processes": record(num_processes=0),
    "measures as a list": record(evaluation=[1, 2]),
    "a measure as text": record(evaluation={"mse": "low"}),
    "a measure beyond floats": record(evaluation={"mse": 10**400}),
    "best without parts": record(best={"step": 1}),
    "best later than now": record(best={"step": 9, "measures": {}, "since": 0}),
    "unknown key": record(more=1),
    "record no JSON": bytes_of("state.json", b"{"),
    "record nested": bytes_of("state.json", b"[" * 9999),
    "weights missing": tensors("model.safetensors", lambda t: t.pop(CODEBOOK)),
    "weights extra": tensors("model.safetensors", lambda t: t.update(more=torch.zeros(1))),
    "weights of another shape": tensors(
        "model.safetensors", lambda t: t.update({CODEBOOK: torch.zeros(3, 3)})
    ),
    "weights no safetensors": bytes_of("model.safetensors", b"x" * 99),
    "weights gone": gone("model.safetensors"),
    "average of another shape": tensors(
        "average.safetensors", lambda t: t.update({f"module.{CODEBOOK}": torch.zeros(3, 3)})
    ),
    "average gone": gone("average.safetensors"),
    "optimizer no archive": bytes_of("optimizer.bin", b"x" * 99),
    "optimizer planted": bytes_of("optimizer.bin", pickle.dumps(Trap())),
    "optimizer gone": gone("optimizer.bin"),
    "optimizer of nothing": optimizer(lambda s: s.clear()),
    "optimizer of no groups": optimizer(lambda s: s.update(param_groups=[])),
    "moments of another shape": optimizer(
        lambda s: s["state"][0].update(exp_avg=torch.zeros(3, 3, 3))
    ),
    "moments as text": optimizer(lambda s: s["state"][0].update(exp_avg_sq="none")),
}


USUAL = [
    "step -5",
    "a measure as text",
    "weights missing",
    "optimizer planted",
    "moments of another shape",
]


@pytest.mark.parametrize("name", slow_but(USUAL, CHANGES))
def test_a_resealed_checkpoint_that_does_not_fit_is_refused(begun, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(begun, tmp_path / "run")
    folder = run / "checkpoints" / "step-00000004"
    (folder / MANIFEST).unlink()
    CHANGES[name](folder)
    seal_folder(folder)
    log = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"step-00000004|timing"):
        train_tokenizer(config(steps=6), run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == log
    assert folder.is_dir()
    assert not Path("sprung").exists()


def test_options_of_the_optimizer_are_those_of_the_config(begun, tmp_path):
    """A checkpoint cannot change them."""
    runs = [shutil.copytree(begun, tmp_path / name) for name in ("good", "changed")]
    folder = runs[1] / "checkpoints" / "step-00000004"
    (folder / MANIFEST).unlink()
    optimizer(lambda s: s["param_groups"][0].update(betas="none", weight_decay=1e9))(folder)
    seal_folder(folder)
    measures = [train_tokenizer(config(steps=6), run, resume=True) for run in runs]
    assert measures[0] == measures[1]
