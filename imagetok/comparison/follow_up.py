"""Follow-up steps on finished trials: feature distances, and a prior on the codes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from imagetok.comparison.plan import Trial
from imagetok.comparison.subprocesses import SUCCESS, Command, Failure, failure_of, run_commands
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest


class FollowUpStep(NamedTuple):
    """A command for each trial; run again, it continues where it was interrupted."""

    name: str
    command: Callable[[Trial], Sequence[str]]
    is_done: Callable[[Trial], bool]


class FollowUp(NamedTuple):
    """Steps to run on every finished trial, and how to read their results."""

    steps: Sequence[FollowUpStep]
    measures: Callable[[Trial], dict[str, float | int]]
    """Return the measures of a trial whose steps are done; their names differ from training's."""
    identity: Callable[[Trial], dict[str, Any]]
    """Return what these measures depend on besides the tokenizer, without paths."""


def run_follow_up(
    follow_up: FollowUp,
    trials: Sequence[Trial],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
) -> dict[Trial, Failure]:
    """Run each step on all trials; return the trials that failed, which skip the later steps.

    slots: see `run_commands`. Raises StoppedError after a signal.
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
                if code not in SUCCESS:
                    failures[todo[name]] = failure_of(jobs[name], code)
    return failures
