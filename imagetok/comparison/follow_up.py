"""Work on finished tokenizers, cell by cell: distances of reconstructions, a prior on the codes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from imagetok.comparison.plan import Trial
from imagetok.comparison.subprocesses import Command, Failure, failure_of, run_commands
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest


class FollowUpStep(NamedTuple):
    """A command for each cell; run again, it goes on where it was stopped."""

    name: str
    command: Callable[[Trial], Sequence[str]]
    is_done: Callable[[Trial], bool]


class FollowUp(NamedTuple):
    """The steps in order, and what came of them."""

    steps: Sequence[FollowUpStep]
    measures: Callable[[Trial], dict[str, float | int]]
    """Of a cell whose steps are done, by names that training has not."""
    identity: Callable[[Trial], dict[str, Any]]
    """What those numbers depend on beside the tokenizer, without paths: the same for all cells."""


def run_follow_up(
    follow_up: FollowUp,
    trials: Sequence[Trial],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
) -> dict[Trial, Failure]:
    """Take all cells through each step; returns those that failed, which no later step sees.

    Raises StoppedError after a signal.
    """
    failures: dict[Trial, Failure] = {}
    total = len(follow_up.steps) * len(trials)
    with ProgressBar("measuring", total, 0, total > 0) as bar:
        for i, step in enumerate(follow_up.steps):
            todo = {
                f"{trial.method} {trial.seed}": trial
                for trial in trials
                if trial not in failures and not step.is_done(trial)
            }
            jobs = {
                name: Command(name, step.command(trial), trial.log.with_suffix(".later.log"))
                for name, trial in todo.items()
            }
            bar.update(i * len(trials), step.name)
            codes = run_commands(list(jobs.values()), slots, stop, lambda running: None)
            stop.check_here()
            for name, code in codes.items():
                if code != 0:
                    failures[todo[name]] = failure_of(jobs[name], code)
    return failures
