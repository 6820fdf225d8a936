"""Steps that the gradient scaler of fp16 skips, in a run on the CPU that is told to use fp16."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from test_resume import assert_same_run, checkpoint, vqema

from imagetok.training.config import TokenizerRun
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import train
from imagetok.training.run_folder import open_run
from imagetok.training.run_images import RunImages
from imagetok.training.step_output import StepOutput
from imagetok.training.tokenizer import _job

STEPS = 6
OVERFLOWS = (2, 3)
"""Steps whose scaled gradients are infinite."""


def overflowing(job: Job, accumulation: int, start: int) -> Job:
    """The same job with a loss that is finite, but too large to be scaled, at some steps."""
    micro_batches = itertools.count(start * accumulation)

    def loss(*arguments: Any) -> StepOutput:
        output = job.loss(*arguments)
        is_large = next(micro_batches) // accumulation in OVERFLOWS
        return output._replace(loss=output.loss * (1e36 if is_large else 1.0))

    return replace(job, loss=loss)


@pytest.fixture
def run(monkeypatch) -> Callable[..., None]:
    """run(folder, config): train, or go on, with a scaler of its own, and fp16 if `is_half`."""

    def train_in(
        folder: Path,
        run_config: TokenizerRun,
        *,
        is_scaled: bool = True,
        is_half: bool = True,
        overflows: bool = True,
    ) -> None:
        accelerator = build_accelerator(run_config.train, folder, "cpu")
        if is_scaled:
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        if is_half:  # as Accelerate sets it for GPUs
            accelerator.native_amp = True
            monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
        resume = folder.exists()
        job = _job(run_config, folder, RunImages(run_config, folder, resume=resume), None)
        if overflows:
            start = max((int(p.name[5:]) for p in folder.glob("checkpoints/step-*")), default=0)
            job = overflowing(job, run_config.train.accumulation, start)
        with open_run(folder, run_config, resume=resume, is_main=True):
            train(job, run_config.train, accelerator=accelerator, run=folder, seed=0, unit="images")

    return train_in


def ema(steps: int = STEPS, **changes: Any) -> TokenizerRun:
    given: dict[str, Any] = {"checkpoint_every": 1, "evaluate_every": 3, "log_every": 1}
    given |= {"keep_checkpoints": [*range(1, STEPS + 1)], "ema_decay": 0.5, "clip_norm": 1.0}
    return vqema("zeros", steps=steps, **given | changes)


def scaler_of(folder: Path, step: int) -> dict[str, Any]:
    path = folder / "checkpoints" / f"step-{step:08d}" / "scaler.pt"
    return torch.load(path, weights_only=True)


def test_a_skipped_step_leaves_weights_and_optimizer_and_updates_the_codebook_as_usual(
    run, tmp_path
):
    scaled = tmp_path / "scaled"
    settings = ema()
    run(scaled, settings)
    positions = settings.train.batch_size * 16
    quantizer: Any = settings.tokenizer.quantizer
    decay = quantizer.decay
    for step in range(1, STEPS):
        before, after = checkpoint(scaled, step), checkpoint(scaled, step + 1)
        is_skipped = step in OVERFLOWS
        for name, value in before.items():
            if name.startswith(("encoder.", "decoder.", "optimizer.")) and is_skipped:
                assert value.equal(after[name]), (step, name)
        assert is_skipped or any(
            not value.equal(after[name])
            for name, value in before.items()
            if name.startswith("optimizer.")
        )
        sizes = [t["quantizer.cluster_size"].sum() for t in (before, after)]
        torch.testing.assert_close(sizes[1], decay * sizes[0] + (1 - decay) * positions)
        assert all(value.isfinite().all() for value in after.values())
        scales = [scaler_of(scaled, s)["scale"] for s in (step, step + 1)]
        assert (scales[1] == scales[0] / 2) if is_skipped else (scales[1] >= scales[0])
    norms = [
        record["grad_norm"]
        for line in (scaled / "metrics.jsonl").read_text().splitlines()
        if (record := json.loads(line))["split"] == "train"
    ]
    assert [step for step, norm in enumerate(norms) if norm is None] == [*OVERFLOWS]


@pytest.mark.slow
def test_scaling_by_a_power_of_two_changes_no_bit(run, tmp_path):
    for name in ("scaled", "plain"):
        settings = ema(clip_norm=None)  # Accelerate unscales gradients to clip them in fp16 only
        run(
            tmp_path / name,
            settings,
            is_scaled=name == "scaled",
            is_half=False,
            overflows=False,
        )
    assert_same_run(tmp_path / "scaled", tmp_path / "plain", STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [OVERFLOWS[0] + 1, OVERFLOWS[1] + 1, OVERFLOWS[1] + 2])
def test_a_resumed_run_scales_as_an_uninterrupted_one(run, tmp_path, stop):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, ema())
    for steps in (stop, STEPS):
        run(parts, ema(steps))
    assert checkpoint(whole, STEPS).keys() == checkpoint(parts, STEPS).keys()
    for name, value in checkpoint(whole, STEPS).items():
        assert value.equal(checkpoint(parts, STEPS)[name]), name
    assert scaler_of(whole, STEPS) == scaler_of(parts, STEPS)
    assert scaler_of(whole, STEPS)["scale"] != 2.0**10
