"""A training run with scripted held-out measures, so that no test depends on what it learns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imagetok.training.best_weights import WeightSelection
from imagetok.training.config import TrainConfig
from imagetok.training.divergence import DivergenceLimits
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import train
from imagetok.training.schedules import Constant
from imagetok.training.step_output import StepOutput


class Numbers:
    """Eight examples, one number each."""

    def __len__(self) -> int:
        return 8

    def identity(self) -> str:
        return "eight numbers"

    def __getitems__(self, indices: list[int]) -> Tensor:
        return torch.tensor(indices, dtype=torch.float32)[:, None] / 8


def run_scripted(
    folder: Path,
    bits: Mapping[int, float],
    *,
    steps: int,
    patience: int | None = None,
    export: str = "best",
    limits: DivergenceLimits | None = None,
    model: nn.Module | None = None,
    **changes: object,
) -> dict[str, float | int]:
    """Train a linear map, or `model`, to `steps`, or on from the folder's checkpoint.

    bits: measure by step. `weights.safetensors` in `artifact/` is what was exported.
    """

    def loss(model: nn.Module, batch: Tensor, values: dict, draw: torch.Generator) -> StepOutput:
        noise = torch.randn(batch.shape, generator=draw)
        return StepOutput((model(batch) - 1 + noise).square().mean(), {}, {}, {})

    def save(model: nn.Module, measures: dict[str, float | int]) -> None:
        (folder / "artifact").mkdir(exist_ok=True)
        save_file(model.state_dict(), folder / "artifact" / "weights.safetensors")

    torch.manual_seed(0)
    config = TrainConfig(
        steps=steps, batch_size=4, learning_rate=Constant(value=0.1), trackers=(),
        **{"evaluate_every": 2, "checkpoint_every": 5} | changes,
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    job = Job(
        model=model or nn.Linear(1, 1),
        dataset=Numbers(),
        loss=loss,
        update=lambda model, sums, draw: {},
        describe=lambda sums: {},
        evaluate=lambda model, step, check: {"bits": bits[step]},
        export=save,
        artifact=folder / "artifact",
        selection=WeightSelection("bits", patience, export),
        limits=limits,
    )
    accelerator = build_accelerator(config, folder, "cpu")
    return train(job, config, accelerator=accelerator, run=folder, seed=0, unit="numbers")


def evaluated(folder: Path) -> list[int]:
    """The steps of a run's evaluations."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record["step"] for record in lines if record["split"] == "test"]


def finished(folder: Path) -> dict[str, int]:
    return json.loads((folder / "finished.json").read_bytes())


def exported(folder: Path) -> dict[str, list]:
    return load(folder / "artifact" / "weights.safetensors")


def load(path: Path) -> dict[str, list]:
    """The tensors of a file as lists of numbers, which == compares."""
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


def checkpoint_parts(folder: Path, step: int) -> dict[str, Any]:
    """What a checkpoint keeps of the weights, the optimizer and the best so far.

    Sizes of the logs are left out: an extended run has measured itself where it ended, too.
    """
    path = folder / "checkpoints" / f"step-{step:08d}"
    parts: dict[str, Any] = {p.stem: load(p) for p in path.glob("*.safetensors")}
    moments = torch.load(path / "optimizer.bin", weights_only=True)["state"]
    parts["optimizer"] = {
        i: {k: v.tolist() for k, v in values.items()} for i, values in moments.items()
    }
    state = json.loads((path / "state.json").read_bytes())
    parts["state"] = {k: v for k, v in state.items() if not k.endswith("_bytes")}
    return parts
