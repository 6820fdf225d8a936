"""Records of checkpoints (state.json) and of finished runs (finished.json)."""

from pathlib import Path
from typing import Any

from pydantic import Field, StrictBool, model_validator

from imagetok.config import Section
from imagetok.errors import CheckpointError, InputError
from imagetok.io.json_files import Count, Measure, read_section

FINISHED, DISCRIMINATOR = "finished.json", "discriminator.safetensors"


class BestRecord(Section):
    """Step and measures of the best weights of a run; their tensors are in their own file."""

    step: Count
    """Step of the best weights."""
    measures: dict[str, Measure]
    """Held-out measures of the best weights; empty before the first evaluation."""
    since: Count
    """Number of evaluations since the best one."""


class CheckpointRecord(Section):
    """State of a run at a checkpoint, apart from weights and optimizer."""

    step: Count
    """Number of optimizer steps taken."""
    metrics_bytes: Count
    """Size of metrics.jsonl in bytes at the checkpoint."""
    timing_bytes: Count
    """Size of timing.jsonl in bytes at the checkpoint."""
    pending_evaluation: StrictBool
    """Whether the evaluation due at this step had not finished."""
    evaluation: dict[str, Measure]
    """Measures of the last finished evaluation."""
    num_processes: int = Field(ge=1, lt=2**31, strict=True)
    """Number of processes that trained the run."""
    data: str
    """Identity of the training data."""
    networks: dict[str, str] = Field(default_factory=dict)
    """Hashes of networks that the loss uses and does not train, by name."""
    best: BestRecord | None = None
    """Record of the best weights so far; None if none are kept."""

    @model_validator(mode="before")
    @classmethod
    def _without_best(cls, tree: object) -> object:
        """Read `best: {}`, which is stored if no best weights are kept, as None."""
        empty = isinstance(tree, dict) and tree.get("best") == {}
        return {**tree, "best": None} if isinstance(tree, dict) and empty else tree

    def stored(self) -> dict[str, Any]:
        """Return the plain data of state.json."""
        tree = self.model_dump(mode="json")
        if not self.networks:
            del tree["networks"]
        return {**tree, "best": tree["best"] or {}}

    @model_validator(mode="after")
    def _check(self) -> "CheckpointRecord":
        if self.best is not None and self.best.step > self.step:
            raise ValueError(
                f"best.step: expected at most the checkpoint's step {self.step}, found "
                f"{self.best.step}"
            )
        return self


class FinishedRecord(Section):
    """Content of finished.json."""

    step: Count
    """Last step of the run."""
    exported: Count | None = None
    """Step of the exported weights; None in older runs, which exported the last ones."""
    discriminator: str | None = None
    """sha256 of discriminator.safetensors; None if there is none."""

    @property
    def exported_step(self) -> int:
        """Step whose weights became the artifact."""
        return self.step if self.exported is None else self.exported


def read_record(path: Path, step: int) -> CheckpointRecord:
    """Read the record of the checkpoint of `step`; raises CheckpointError if it is damaged."""
    record = read_section(path, CheckpointRecord, CheckpointError)
    if record.step != step:
        raise CheckpointError(
            f"{path}: step: expected {step} from the name of its folder, found {record.step}; the "
            "file is damaged"
        )
    return record


def read_finished(run: Path) -> FinishedRecord | None:
    """Read finished.json; None if the run is not finished, InputError if the file is damaged."""
    if not (run / FINISHED).is_file():
        return None
    return read_section(run / FINISHED, FinishedRecord, InputError)
