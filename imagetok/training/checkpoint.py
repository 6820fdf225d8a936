"""Atomic, hashed checkpoints: Accelerate's `save_state` plus imagetok's own record.

The record is JSON and the averaged weights are safetensors; nothing is registered with Accelerate
for checkpointing, because Accelerate would unpickle it on loading.
"""

import logging
import math
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from imagetok.durable import commit_folder, verify_folder, write_json
from imagetok.errors import CheckpointError, DivergedError, ResourceError
from imagetok.io.regular_files import FileError, check_safetensors, open_regular
from imagetok.training.best_weights import BEST
from imagetok.training.checkpoint_record import CheckpointRecord, read_record
from imagetok.training.sharding import whole

logger = logging.getLogger("imagetok")
KEEP = 2
_RECORD, _AVERAGE = "state.json", "average.safetensors"
_NAME = re.compile("step-[0-9]{8,15}")


def save(
    accelerator: Accelerator,
    folder: Path,
    record: CheckpointRecord,
    average: AveragedModel | None,
    best: dict[str, Tensor],
    kept: Container[int] = (),
) -> None:
    """Write the checkpoint `folder/step-NNNNNNNN`, then delete all but the newest `KEEP`.

    Called on every process. best: weights to store beside those of this step; no file if empty.
    kept: steps whose checkpoints are not deleted.
    Raises DivergedError for weights that are not finite, ResourceError if the disk is full or
    fails; earlier checkpoints are untouched in both cases.
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
            _delete_old(folder, kept)
    except (OSError, RuntimeError, SafetensorError) as error:  # the writers raise different errors
        shutil.rmtree(staging, ignore_errors=True)
        free = shutil.disk_usage(folder).free
        raise ResourceError(
            f"{final}: the checkpoint could not be written ({str(error).splitlines()[0]}); "
            f"{free:,} bytes are free on its disk. The earlier checkpoints are intact: free some "
            "space, then run the same command with --resume"
        ) from error
    accelerator.wait_for_everyone()


def _complete(
    staging: Path,
    final: Path,
    record: CheckpointRecord,
    average: AveragedModel | None,
    best: dict[str, Tensor],
) -> None:
    """Add the record and extra weights, and rename the folder to its final name."""
    if average is not None:
        tensors = {k: v.contiguous() for k, v in average.state_dict().items()}
        save_file(tensors, staging / _AVERAGE)
    if best:
        save_file(best, staging / BEST)
    write_json(staging / _RECORD, record.stored())
    commit_folder(staging, final)


def _delete_old(folder: Path, kept: Container[int]) -> None:
    for old in names(folder)[:-KEEP]:
        if _step_of(old) not in kept:
            _delete(old)


def _delete(path: Path) -> None:
    # The manifest goes first, so that a half-deleted folder never looks complete.
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path)


def check_finite(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Raise DivergedError if a weight is not finite."""
    for model in accelerator._models:
        for name, tensor in accelerator.unwrap_model(model).state_dict().items():
            if tensor.is_floating_point() and not bool(whole(tensor.isfinite().all())):
                refuse(folder, step, f"the weights {name} are not finite")


def refuse(folder: Path, step: int, what: str, measure: str | None = None) -> NoReturn:
    """Raise DivergedError with the fault, an intact checkpoint if there is one, and what to try.

    what: the fault. measure: name the checkpoint with the lowest value of this held-out measure;
    None: name the newest.
    """
    path, message = newest(folder), "Last intact checkpoint"
    if path is None:
        raise DivergedError(
            f"step {step}: {what}; training stopped. There is no checkpoint to continue from: "
            "start again in another --out with a lower train.learning_rate, train.clip_norm=1.0 or "
            "train.precision=fp32; a train.checkpoint_every below this step would leave one"
        )
    if measure is not None and (best := _best(folder, measure)) is not None:
        is_last, path = path == best[0], best[0]
        message = f"Best of the kept checkpoints, with a held-out {measure} of {best[1]:.4g}"
        message += "" if is_last else " (delete the later ones to continue from it)"
    raise DivergedError(
        f"step {step}: {what}; training stopped. {message}: {path}. "
        "Continue from it with --resume and a lower train.learning_rate, train.clip_norm=1.0, or "
        "train.precision=fp32"
    )


def _best(folder: Path, measure: str) -> tuple[Path, float] | None:
    """Return the intact checkpoint with the lowest held-out measure (ties: the newest), and it."""
    found = []
    for path in reversed(names(folder)):
        if not verify_folder(path):
            value = read(path).evaluation.get(measure)
            found += [(path, value)] if value is not None else []
    return min(found, key=lambda pair: pair[1], default=None)


def newest(folder: Path) -> Path | None:
    """Return the newest intact checkpoint; damaged ones are skipped with a warning.

    Raises ResourceError if one cannot be read, because it may be intact.
    """
    for path in reversed(names(folder)):
        with _reading(path):
            faults = verify_folder(path)
        if not faults:
            return path
        logger.warning("skipping a damaged checkpoint: %s", "; ".join(faults))
    return None


def read(path: Path) -> CheckpointRecord:
    """Read the record of a verified checkpoint; raises CheckpointError if it is invalid."""
    with _reading(path):
        return read_record(path / _RECORD, _step_of(path))


def load(accelerator: Accelerator, path: Path, average: AveragedModel | None) -> None:
    """Restore a verified checkpoint into the prepared model, optimizer and average.

    Raises CheckpointError for a checkpoint that does not fit them.
    """
    if average is not None and not (path / _AVERAGE).is_file():
        raise CheckpointError(
            f"{path}: has no averaged weights, because train.ema_decay was not set in this run"
        )
    with _restoring(path):
        # The optimizer's options are kept as the config sets them.
        options = [_options(group) for o in accelerator._optimizers for group in o.param_groups]
        for file in path.glob("*.safetensors"):
            check_safetensors(file)
        accelerator.load_state(str(path))
        if average is not None:
            average.load_state_dict(load_file(path / _AVERAGE), strict=True)
        groups = [group for o in accelerator._optimizers for group in o.param_groups]
        for group, option in zip(groups, options, strict=True):
            group.update(option)
        for optimizer in accelerator._optimizers:
            _check_moments(optimizer)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for optimizer moments of the wrong shape, which torch does not check."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = (1,) if name == "step" else tuple(parameter.shape)
            if not isinstance(value, Tensor) or math.prod(value.shape) != math.prod(shape):
                raise ValueError(f"{name} of a parameter of shape {tuple(parameter.shape)}")


@contextmanager
def _restoring(path: Path) -> Iterator[None]:
    """Turn any error in restoring a checkpoint into CheckpointError, as readers raise many kinds.

    Memory errors and errors of the disk are raised as such.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | FileError):
            with _reading(path):
                raise
        if any(text in str(error) for text in ("out of memory", "can't allocate memory")):
            raise
        raise CheckpointError(
            f"{path}: does not fit this run, or was changed ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); restore it, or delete it to continue from "
            "the previous checkpoint"
        ) from error


def best_tensors(
    path: Path, record: CheckpointRecord, wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Read the best weights in a checkpoint; empty if none were recorded yet.

    wanted: the tensors whose names and shapes they must have; see `read_tensors` for errors.
    """
    if record.best is None or not record.best.measures:
        return {}
    return read_tensors(path / BEST, wanted)


def discard_after(path: Path) -> None:
    """Delete the checkpoints after `path`: they are damaged and must not count as kept ones."""
    for damaged in names(path.parent):
        if _step_of(damaged) > _step_of(path):
            _delete(damaged)


def read_tensors(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint's file.

    wanted: tensors with the expected names and shapes. Raises CheckpointError if the file's differ
    or it is damaged, ResourceError if it cannot be read.
    """
    with _restoring(path):
        check_safetensors(path)
        tensors = load_file(path)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        if found != expected:
            odd = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            raise ValueError(
                f"{odd[0]}: expected {expected.get(odd[0])}, found {found.get(odd[0])}"
            )
        return tensors


def kept_weights(folder: Path) -> dict[int, dict[str, Tensor]]:
    """Return the evaluated weights of every intact checkpoint, by step.

    These are the averaged weights if the run has `train.ema_decay`. Damaged checkpoints are
    skipped with a warning.
    """
    found = {}
    for path in names(folder):
        with _reading(path):
            faults = verify_folder(path)
        try:
            found |= {} if faults else {_step_of(path): _evaluated_weights(path)}
        except CheckpointError as error:
            faults = [str(error)]
        if faults:
            logger.warning("skipping a damaged checkpoint: %s", "; ".join(faults))
    return found


def _evaluated_weights(path: Path) -> dict[str, Tensor]:
    with _restoring(path):
        for file in path.glob("*.safetensors"):
            check_safetensors(file)
        if not (path / _AVERAGE).is_file():
            return load_file(path / "model.safetensors")
        prefix = "module."  # AveragedModel's; its counter of updates has no prefix
        averaged = load_file(path / _AVERAGE)
        return {k.removeprefix(prefix): v for k, v in averaged.items() if k.startswith(prefix)}


def has_checkpoints(folder: Path) -> bool:
    """Return whether the folder has any checkpoint, intact or damaged.

    Raises ResourceError if one of their files cannot be opened or the folder cannot be listed.
    """
    found = names(folder)
    for path in found:
        with _reading(path):
            for file in path.iterdir():
                if not file.is_dir():
                    open_regular(file).close()
    return bool(found)


def build_average(model: torch.nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of a model's weights; None without a decay.

    Its buffers are copies of the model's.
    """
    return None if decay is None else _MovingAverage(model, decay)


class _MovingAverage(AveragedModel):
    """The moving average, stored as torch's, whose update copies a counter to the device and waits.

    The counter stays on the CPU; it only says whether there was an update before.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        super().__init__(model)
        self._move = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Move the weights towards those of the model; the first update makes them equal."""
        averaged: list[Tensor] = [*self.module.parameters()]
        current: list[Tensor] = [*model.parameters()]
        copied = [*zip(self.module.buffers(), model.buffers(), strict=True)]
        if self.n_averaged == 0:
            copied += zip(averaged, current, strict=True)
        else:
            self._move(averaged, current, self.n_averaged)
        for own, given in copied:
            own.copy_(given)
        self.n_averaged += 1


def names(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, sorted by step; ResourceError if it cannot be listed."""
    with _reading(folder):
        try:
            # glob would return nothing for a folder that cannot be read
            entries = list(folder.iterdir())
        except FileNotFoundError:
            return []
        found = [p for p in entries if _NAME.fullmatch(p.name)]
        for path in filter(Path.is_symlink, found):
            path.stat()  # a dangling link may point to a disk that is not mounted
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name[5:])


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an OSError into ResourceError: the checkpoint may be intact, but cannot be read."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{error.filename or path}: a checkpoint cannot be read ({error.strerror or error}); "
            "nothing was changed. Make it readable (permissions, mounted disk), then run the same "
            "command with --resume"
        ) from None
