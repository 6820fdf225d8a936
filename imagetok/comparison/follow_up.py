"""Work on finished tokenizers, cell by cell: distances of reconstructions, a prior on the codes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from imagetok.comparison.jobs import Failure, Job, failure_of, run_jobs
from imagetok.comparison.plan import Cell
from imagetok.progress import ProgressBar
from imagetok.stopping import StopRequest


class Step(NamedTuple):
    """A command for each cell; run again, it goes on where it was stopped."""

    name: str
    command: Callable[[Cell], Sequence[str]]
    is_done: Callable[[Cell], bool]


class FollowUp(NamedTuple):
    """The steps in order, and what came of them."""

    steps: Sequence[Step]
    measures: Callable[[Cell], dict[str, float | int]]
    """Of a cell whose steps are done, by names that training has not."""
    identity: Callable[[Cell], dict[str, Any]]
    """What those numbers depend on beside the tokenizer, without paths: the same for all cells."""


def run_follow_up(
    follow_up: FollowUp,
    cells: Sequence[Cell],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
) -> dict[Cell, Failure]:
    """Take all cells through each step; returns those that failed, which no later step sees.

    Raises StoppedError after a signal.
    """
    failures: dict[Cell, Failure] = {}
    total = len(follow_up.steps) * len(cells)
    with ProgressBar("measuring", total, 0, total > 0) as bar:
        for i, step in enumerate(follow_up.steps):
            todo = {
                f"{cell.method} {cell.seed}": cell
                for cell in cells
                if cell not in failures and not step.is_done(cell)
            }
            jobs = {
                name: Job(name, step.command(cell), cell.log.with_suffix(".later.log"))
                for name, cell in todo.items()
            }
            bar.update(i * len(cells), step.name)
            codes = run_jobs(list(jobs.values()), slots, stop, lambda running: None)
            stop.check_here()
            for name, code in codes.items():
                if code != 0:
                    failures[todo[name]] = failure_of(jobs[name], code)
    return failures
