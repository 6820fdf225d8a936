"""Keeping the artifact of a finished run when the run goes on to more steps and makes another."""

import logging
from pathlib import Path

from imagetok.durable import fsync_folder
from imagetok.errors import InputError
from imagetok.training.checkpoint_record import read_finished

logger = logging.getLogger("imagetok")


def earlier_artifacts(artifact: Path) -> list[Path]:
    """Return the kept artifacts of earlier ends of a run, by step."""
    return sorted(p for p in artifact.parent.glob(f"{artifact.name}-step-*") if p.is_dir())


def earlier_artifact(artifact: Path, step: int) -> Path:
    """Return where the artifact of an earlier end is kept, such as tokenizer-step-00000500."""
    return artifact.with_name(f"{artifact.name}-step-{step:08d}")


def keep_earlier_artifact(artifact: Path, step: int) -> None:
    """Rename the artifact of a finished run, unless it is that of `step`, which is now exported.

    Codes, priors and samples are bound to the artifact that made them, so they need the one that
    is kept. Does nothing if the run was not finished before.
    """
    try:
        finished = read_finished(artifact.parent)
    except InputError:  # damaged, so the step of the artifact is unknown
        return
    if finished is None or finished.exported_step == step or not artifact.is_dir():
        return
    kept = earlier_artifact(artifact, finished.exported_step)
    if kept.exists():  # a run that was killed between the export and its record
        return
    artifact.rename(kept)
    fsync_folder(artifact.parent)
    logger.warning(
        "%s: kept the one of step %d as %s; what was made with it (codes, priors, samples) belongs "
        "to it, not to the new one of step %d",
        *(artifact, finished.exported_step, kept, step),
    )
