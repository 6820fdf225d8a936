"""Checkpoints that are complete or absent: Accelerate's `save_state` plus our own record, hashed.

The record is JSON and the averaged weights are safetensors; nothing is registered with Accelerate
for checkpointing, because that would be unpickled on loading.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from imagetok.durable import commit_folder, verify_folder, write_json
from imagetok.errors import CheckpointError, DivergedError, ResourceError
from imagetok.files import check_safetensors, read_regular
from imagetok.training.best import BEST

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
    data: str
    """Identity of the training data."""
    best: dict[str, Any]
    """Of the best weights so far; empty where none are kept."""


def save(
    accelerator: Accelerator,
    folder: Path,
    record: Record,
    average: AveragedModel | None,
    best: dict[str, Tensor],
) -> None:
    """Write `folder/step-NNNNNNNN`, then delete all but the newest `KEEP`.

    best: weights to keep beside those of this step; none leaves no file. Called on every process.
    Raises DivergedError rather than keep weights that are not finite, and ResourceError where the
    disk does not take it; what was there before is then untouched.
    """
    check_finite(accelerator, folder, record.step)
    final = folder / f"step-{record.step:08d}"
    staging = folder / f"{final.name}.tmp-staging"
    if accelerator.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(staging))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _complete(staging, final, record, average, best)
    except (OSError, RuntimeError, SafetensorError) as error:  # each writer fails in its own way
        shutil.rmtree(staging, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        raise ResourceError(
            f"{final}: the checkpoint could not be written ({str(error).splitlines()[0]}); "
            f"{free:,} bytes are free there. The earlier checkpoints are good: make room, then run "
            "the same command with --resume"
        ) from error
    accelerator.wait_for_everyone()


def _complete(
    staging: Path,
    final: Path,
    record: Record,
    average: AveragedModel | None,
    best: dict[str, Tensor],
) -> None:
    """Add our own files, give the folder its name, and delete the oldest."""
    if average is not None:
        tensors = {k: v.contiguous() for k, v in average.state_dict().items()}
        save_file(tensors, staging / _AVERAGE)
    if best:
        save_file(best, staging / BEST)
    write_json(staging / _RECORD, record._asdict())
    commit_folder(staging, final)
    for old in _names(final.parent)[:-KEEP]:
        _delete(old)


def _delete(path: Path) -> None:
    # The manifest goes first, so that a half-deleted folder never looks complete.
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path)


def check_finite(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Raise DivergedError if a weight is not finite."""
    for model in accelerator._models:
        for name, tensor in accelerator.unwrap_model(model).state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                refuse(folder, step, f"the weights {name} are not finite")


def refuse(folder: Path, step: int, what: str) -> NoReturn:
    """Raise DivergedError, naming the last good checkpoint and what to try."""
    raise DivergedError(
        f"step {step}: {what}; training stopped. Last good checkpoint: {newest(folder) or 'none'}. "
        "Go on from it with --resume and a lower train.learning_rate, train.clip_norm=1.0, or "
        "train.mixed_precision=no"
    )


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
    raw: dict[str, Any] = json.loads(read_regular(path / _RECORD))
    record = Record(**{"best": {}, **raw})  # checkpoints from before had none
    if accelerator.is_main_process:
        for damaged in _names(path.parent)[_names(path.parent).index(path) + 1 :]:
            _delete(damaged)  # it was passed over, and must not count towards those kept
    for file in path.glob("*.safetensors"):
        check_safetensors(file)
    accelerator.load_state(str(path))
    if average is not None:
        if not (path / _AVERAGE).is_file():
            raise CheckpointError(
                f"{path}: has no averaged weights; train.ema_decay was not set in this run"
            )
        average.load_state_dict(_tensors(path / _AVERAGE), strict=True)
    return record


def kept_weights(folder: Path) -> dict[int, dict[str, Tensor]]:
    """By step: the weights that were evaluated, of every kept checkpoint that verifies.

    Those are the averaged ones where the run averages. Damaged checkpoints are passed over with a
    warning.
    """
    found = {}
    for path in _names(folder):
        faults = verify_folder(path)
        if faults:
            logger.warning("passing over a damaged checkpoint: %s", "; ".join(faults))
        elif (path / _AVERAGE).is_file():
            averaged = _tensors(path / _AVERAGE)
            prefix = "module."  # AveragedModel's; it counts its updates beside it
            found[int(path.name[5:])] = {
                name.removeprefix(prefix): tensor
                for name, tensor in averaged.items()
                if name.startswith(prefix)
            }
        else:
            found[int(path.name[5:])] = _tensors(path / "model.safetensors")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    check_safetensors(path)
    return load_file(path)


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
