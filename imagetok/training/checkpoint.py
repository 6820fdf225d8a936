"""Checkpoints that are complete or absent: Accelerate's `save_state` plus our own record, hashed.

The record is JSON and the averaged weights are safetensors; nothing is registered with Accelerate
for checkpointing, because that would be unpickled on loading.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from imagetok.durable import commit_folder, verify_folder, write_json
from imagetok.errors import CheckpointError, DivergedError

logger = logging.getLogger("imagetok")
KEEP = 2
_RECORD, _AVERAGE = "state.json", "average.safetensors"


class Record(NamedTuple):
    """Where a run stood when the checkpoint was taken."""

    step: int
    """Optimizer steps that are done."""
    metrics_bytes: int
    """Size of metrics.jsonl up to here."""
    timing_bytes: int
    """Size of timing.jsonl up to here."""
    pending_evaluation: bool
    """The evaluation that was due at this step had not finished."""
    evaluation: dict[str, float | int]
    """The last finished evaluation."""
    num_processes: int


def save(
    accelerator: Accelerator, folder: Path, record: Record, average: AveragedModel | None
) -> Path:
    """Write `folder/step-NNNNNNNN`, then delete all but the newest `KEEP`; returns its path.

    Called on every process. Raises DivergedError rather than keep weights that are not finite.
    """
    final = folder / f"step-{record.step:08d}"
    staging = folder / f"{final.name}.tmp-staging"
    for model in accelerator._models:
        for name, tensor in accelerator.unwrap_model(model).state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DivergedError(
                    f"step {record.step}: the weights {name} are not finite; nothing was saved. "
                    f"Last good checkpoint: {newest(folder) or 'none'}. Try a lower "
                    "train.learning_rate, train.clip_norm=1.0, or mixed_precision=no"
                )
    if accelerator.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(staging))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if average is not None:
            tensors = {k: v.contiguous() for k, v in average.state_dict().items()}
            save_file(tensors, staging / _AVERAGE)
        write_json(staging / _RECORD, record._asdict())
        commit_folder(staging, final)
        for old in _names(folder)[:-KEEP]:
            # The manifest goes first, so that a half-deleted folder never looks complete.
            (old / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are passed over with a warning."""
    for path in reversed(_names(folder)):
        faults = verify_folder(path)
        if not faults:
            return path
        logger.warning("passing over a damaged checkpoint: %s", "; ".join(faults))
    return None


def load(accelerator: Accelerator, path: Path, average: AveragedModel | None) -> Record:
    """Restore a verified checkpoint into the prepared model, optimizer and average."""
    raw: dict[str, Any] = json.loads((path / _RECORD).read_bytes())
    record = Record(**raw)
    accelerator.load_state(str(path))
    if average is not None:
        if not (path / _AVERAGE).is_file():
            raise CheckpointError(
                f"{path}: has no averaged weights; train.ema_decay was not set in this run"
            )
        average.load_state_dict(load_file(path / _AVERAGE), strict=True)
    return record


def has_checkpoints(folder: Path) -> bool:
    """Whether any checkpoint, good or damaged, is there."""
    return bool(_names(folder))


def build_average(model: torch.nn.Module, decay: float | None) -> AveragedModel | None:
    """The exponential moving average of a model's weights; its buffers follow the model's."""
    if decay is None:
        return None
    averaging = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=averaging, use_buffers=False)


def _names(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("step-*") if p.name[5:].isdigit() and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name[5:]))
