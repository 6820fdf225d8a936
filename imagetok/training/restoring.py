"""Restoring a run that is continued: from its newest checkpoint, or from its finished end."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from imagetok.distributed.peers import check_same_on_all
from imagetok.errors import CheckpointError
from imagetok.suggestions import counted
from imagetok.training import checkpoint
from imagetok.training.best_weights import BestWeights
from imagetok.training.checkpoint_record import BestRecord, CheckpointRecord, read_finished
from imagetok.training.job import Job
from imagetok.training.metrics_log import JsonLines, read_json_lines, test_record

logger = logging.getLogger("imagetok")


class RunParts(NamedTuple):
    """What a checkpoint restores, besides the progress that its record holds."""

    accelerator: Accelerator
    """Holds the prepared model and optimizer."""
    weights: Mapping[str, Tensor]
    """Tensors with the names and shapes of the model's whole weights."""
    average: AveragedModel | None
    best: BestWeights | None
    metrics: JsonLines
    timing: JsonLines


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """Return the newest intact checkpoint, which is the same on every process; None without one."""
    path = checkpoint.newest(checkpoints)
    check_same_on_all({}, {f"the newest intact checkpoint in {checkpoints}": path and path.name})
    return path


def restore(path: Path, job: Job, parts: RunParts) -> CheckpointRecord:
    """Restore a checkpoint into the parts of a run; the disk is changed only after reading it.

    Raises CheckpointError for a checkpoint of other data or that does not fit, ResourceError if it
    cannot be read.
    """
    accelerator, is_main = parts.accelerator, parts.accelerator.is_main_process
    record = checkpoint.read(path)
    _check_data(path, record, job)
    _check_networks(path, record, job)
    logs = (parts.metrics, record.metrics_bytes), (parts.timing, record.timing_bytes)
    if is_main:
        for log, size in logs:
            log.check_holds(size)
    if parts.best is not None:
        best = checkpoint.best_tensors(path, record, parts.weights)
        parts.best.restore(record.best, best)
    checkpoint.load(accelerator, path, parts.average)
    accelerator.wait_for_everyone()  # until all processes have read the checkpoint
    if is_main:
        checkpoint.discard_after(path)
        for log, size in logs:
            log.cut(size)
    logger.info("resuming from %s", path)
    _warn_of_other_processes(record, accelerator.num_processes)
    return record


def _check_data(path: Path, record: CheckpointRecord, job: Job) -> None:
    if record.data == job.dataset.identity():
        return
    how = job.read_differently()
    raise CheckpointError(
        f"{path}: was saved with other training data (images or labels were added, removed "
        "or changed since then, or this version of imagetok reads them differently"
        f"{f': {how}' if how else ''}); restore the data, or train into a new --out"
    )


def _check_networks(path: Path, record: CheckpointRecord, job: Job) -> None:
    for name, found in job.networks.items():
        expected = record.networks.get(name, "none")
        if found != expected:
            raise CheckpointError(
                f"{path}: was saved with another {name} (sha256 {expected[:12]}, found "
                f"{found[:12]}); restore its weights, or train into a new --out"
            )


def _warn_of_other_processes(record: CheckpointRecord, num_processes: int) -> None:
    if record.num_processes != num_processes:
        logger.warning(
            "the checkpoint was saved by %s and training continues with %d: the run is no "
            "longer bit-identical to an uninterrupted one",
            counted(record.num_processes, "process"),
            num_processes,
        )


class FinishedEnd(NamedTuple):
    """The end of a finished run."""

    step: int
    exported: int
    """The step whose weights became the artifact."""
    measures: dict[str, float | int]
    """The held-out measures of that step."""

    def best(self) -> BestRecord:
        """Return the record of the best weights, which are those that were exported."""
        return BestRecord(step=self.exported, measures=self.measures, since=0)


def finished_end(folder: Path, steps: int) -> FinishedEnd | None:
    """Return the end of the run in `folder`; None if it did not finish with `steps` steps.

    It is read from finished.json and metrics.jsonl, for runs whose checkpoints were deleted.
    """
    found = read_finished(folder)
    if found is None or found.step != steps:
        return None
    measures = test_record(read_json_lines(folder / "metrics.jsonl"), found.exported_step)
    if measures.pop("step", None) != found.exported_step:
        return None
    del measures["split"]
    return FinishedEnd(found.step, found.exported_step, measures)


def check_no_progress_lost(checkpoints: Path, log: Path) -> None:
    """Raise CheckpointError if a run made progress but has no intact checkpoint.

    log: its metrics.jsonl.
    """
    if checkpoint.has_checkpoints(checkpoints):
        raise CheckpointError(
            f"{checkpoints}: every checkpoint is damaged; restore one from a backup, "
            "or train into a new --out"
        )
    if log.stat().st_size:
        raise CheckpointError(
            f"{log}: is the log of a run, but {checkpoints} holds no "
            "checkpoint of it; put its checkpoints back, or train into a new --out"
        )
