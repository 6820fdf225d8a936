"""What a checkpoint and a finished run say of themselves, as JSON."""

from pathlib import Path
from typing import Any

from pydantic import Field, StrictBool, model_validator

from imagetok.config import Section
from imagetok.errors import CheckpointError, InputError
from imagetok.io.json_files import Count, Measure, read_section

FINISHED = "finished.json"


class BestRecord(Section):
    """The best weights of a run, beside their tensors."""

    step: Count
    measures: dict[str, Measure]
    """Of their evaluation; empty before the first."""
    since: Count
    """Evaluations that came after it."""


class CheckpointRecord(Section):
    """Where a run stood when a checkpoint was taken."""

    step: Count
    """Optimizer steps that are done."""
    metrics_bytes: Count
    """Size of metrics.jsonl up to here."""
    timing_bytes: Count
    """Size of timing.jsonl up to here."""
    pending_evaluation: StrictBool
    """The evaluation that was due at this step had not finished."""
    evaluation: dict[str, Measure]
    """The last finished evaluation."""
    num_processes: int = Field(ge=1, lt=2**31, strict=True)
    data: str
    """Identity of the training data."""
    best: BestRecord | None = None
    """Of the best weights so far; None where none are kept."""

    @model_validator(mode="before")
    @classmethod
    def _without_best(cls, tree: object) -> object:
        """`best: {}`, as it is stored where no best weights are kept."""
        empty = isinstance(tree, dict) and tree.get("best") == {}
        return {**tree, "best": None} if isinstance(tree, dict) and empty else tree

    def stored(self) -> dict[str, Any]:
        """The plain data of state.json."""
        tree = self.model_dump(mode="json")
        return {**tree, "best": tree["best"] or {}}

    @model_validator(mode="after")
    def _check(self) -> "CheckpointRecord":
        if self.best is not None and self.best.step > self.step:
            raise ValueError(f"best.step: expected at most step, {self.step}")
        return self


class FinishedRecord(Section):
    """What finished.json holds."""

    step: Count
    exported: Count | None = None
    """The step whose weights are the artifact; older runs, which do not say, export the last."""

    @property
    def exported_step(self) -> int:
        """The step whose weights became the artifact."""
        return self.step if self.exported is None else self.exported


def read_record(path: Path, step: int) -> CheckpointRecord:
    """The record of a checkpoint of this step; CheckpointError where it is damaged."""
    record = read_section(path, CheckpointRecord, CheckpointError)
    if record.step != step:
        raise CheckpointError(
            f"{path}: step: expected {step}, as its folder says, found {record.step}; damaged"
        )
    return record


def read_finished(run: Path) -> FinishedRecord | None:
    """What a run says of its end; None while it goes on, InputError for a damaged file."""
    if not (run / FINISHED).is_file():
        return None
    return read_section(run / FINISHED, FinishedRecord, InputError)
