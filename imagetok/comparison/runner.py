"""Runs a planned comparison: parallel trials, then speed, table, pictures and report."""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from imagetok.comparison.figures import (
    Reconstructions,
    measures_figure,
    reconstruction_grid,
    reconstructions,
)
from imagetok.comparison.follow_up import FollowUp, run_follow_up
from imagetok.comparison.page import write_page
from imagetok.comparison.plan import ComparisonPlan, Trial
from imagetok.comparison.results import (
    Comparison,
    TrialResult,
    finished_trial,
    is_finished,
    method_result,
)
from imagetok.comparison.speed import measure_speed
from imagetok.comparison.subprocesses import SUCCESS, Command, Failure, failure_of, run_commands
from imagetok.comparison.sweep_figure import sweep_figure
from imagetok.comparison.table import markdown
from imagetok.data import ImageDataset, open_images
from imagetok.data.readable import readable
from imagetok.durable import lock, write_bytes, write_json
from imagetok.errors import ImagetokError, ResourceError
from imagetok.pictures import png_bytes
from imagetok.processes import keep_freed_memory
from imagetok.progress import ProgressBar
from imagetok.signals import StopRequest
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.metrics_log import read_json_lines
from imagetok.version import __version__

logger = logging.getLogger("imagetok")
_REASONS = {
    3: "its input was rejected",
    5: "an environment error (disk, memory, network)",
    6: "training diverged",
}


def run_comparison(
    plan: ComparisonPlan,
    out: Path,
    train: Callable[[Trial], Sequence[str]],
    *,
    slots: Sequence[Mapping[str, str]],
    device: torch.device,
    command: str,
    follow_up: FollowUp | None = None,
) -> tuple[Comparison | None, dict[Trial, Failure]]:
    """Train every unfinished trial, measure all trials, and write the comparison to `out`.

    train: returns the command that trains a trial, or continues it, to its end; its process exits
    with 0 or an exit code of imagetok. slots: see `run_commands`. device: for the measurement of
    speed and for pictures. command: the command line to record, without paths of this machine.
    follow_up: steps after training for trials of tokenizers with codes.

    Returns the comparison, None if no trial finished, and the trials that failed, in training or in
    the follow-up. Raises StoppedError after a signal (all trials can be continued), ConfigError if
    `out` holds another comparison.
    """
    with plan.hold(out), StopRequest() as stop:
        trials = plan.trials(out)
        failures = train_trials(trials, train, slots, stop)
        if len(failures) == len(trials):
            return None, failures
        tokenizers = {
            trial: Autoencoder.from_pretrained(trial.folder / "tokenizer").to(device)
            for trial in trials
            if trial not in failures
        }
        first: dict[str, Trial] = {}
        for trial in tokenizers:
            first.setdefault(trial.method, trial)
        config = next(iter(plan.methods.values()))
        test = readable(open_images(config.data, "test", config.tokenizer.image), config.max_skip)
        rates = _rates(plan, first, test, device, stop)
        more, late = _follow_up(follow_up, tokenizers, slots, stop)
        result = _collect(
            plan, tokenizers, trials, failures, more, rates, machine_of(device), command
        )
        if follow_up is not None and more:
            identity = follow_up.identity(next(iter(more)))
            result = result.model_copy(update={"follow_up": identity})
        shown = {name: tokenizers[trial] for name, trial in first.items()}
        _write(result, reconstructions(shown, test), out)
    return result, failures | late


def train_trials(
    trials: Sequence[Trial],
    train: Callable[[Trial], Sequence[str]],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
) -> dict[Trial, Failure]:
    """Train every trial that is not finished; return those that failed.

    train, slots: as for `run_comparison`. Raises StoppedError after a signal.
    """
    failures: dict[Trial, Failure] = {}
    todo: dict[str, Trial] = {}
    for trial in trials:
        _wait_until_free(trial, stop)
        try:
            if not is_finished(trial):
                todo[f"{trial.method} {trial.seed}"] = trial
        except ImagetokError as error:
            failures[trial] = Failure(error.exit_code, str(error))
    jobs = {name: Command(name, train(trial), trial.log) for name, trial in todo.items()}
    total, begun = sum(trial.steps for trial in trials), sum(map(_steps_done, trials))
    with ProgressBar("training", total, begun, bool(jobs)) as bar:
        checked, shown_steps = time.monotonic(), -1

        def watch(running: list[str]) -> None:
            nonlocal checked, shown_steps
            if time.monotonic() - checked < 1:  # at most once a second, because this reads files
                return
            # A trial that is continued from a checkpoint has lost the steps after it.
            checked, done = time.monotonic(), max(begun, sum(map(_steps_done, trials)))
            if done != shown_steps:
                bar.update(done, ", ".join(running))
                shown_steps = done

        codes = run_commands(list(jobs.values()), slots, stop, watch)
    stop.check_here()
    for name, code in codes.items():
        if code not in SUCCESS:
            failures[todo[name]] = failure_of(jobs[name], code)
    return {trial: failures[trial] for trial in trials if trial in failures}


def _wait_until_free(trial: Trial, stop: StopRequest) -> None:
    """Wait for a process of an earlier, killed comparison to save its checkpoint and end."""
    begun = time.monotonic()
    while trial.folder.is_dir() and time.monotonic() - begun < 300:  # seconds; then training fails
        try:
            with lock(trial.folder):
                return
        except ResourceError:
            stop.check_here()
            time.sleep(0.1)


def _steps_done(trial: Trial) -> int:
    """Return the last step that a trial logged, at most its number of steps."""
    try:
        records = read_json_lines(trial.folder / "metrics.jsonl")
        return min(int(records[-1]["step"]), trial.steps)
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _follow_up(
    follow_up: FollowUp | None,
    tokenizers: Mapping[Trial, Autoencoder],
    slots: Sequence[Mapping[str, str]],
    stop: StopRequest,
) -> tuple[dict[Trial, dict[str, float | int]], dict[Trial, Failure]]:
    """Run the follow-up; return its measures and the trials that failed in it."""
    if follow_up is None:
        return {}, {}
    coded = [trial for trial, model in tokenizers.items() if isinstance(model, Tokenizer)]
    failures = run_follow_up(follow_up, coded, slots, stop)
    return {trial: follow_up.measures(trial) for trial in coded if trial not in failures}, failures


def _rates(
    plan: ComparisonPlan,
    first: Mapping[str, Trial],
    test: ImageDataset,
    device: torch.device,
    stop: StopRequest,
) -> dict[str, dict[str, float]]:
    """Measure the speed of one trial per method; speed does not depend on the seed."""
    logger.info("measuring the speed of training and encoding")
    keep_freed_memory()
    measured = {
        name: (plan.methods[name], trial.folder / "tokenizer") for name, trial in first.items()
    }
    return measure_speed(measured, test, device, stop.check_here)


def _collect(
    plan: ComparisonPlan,
    tokenizers: Mapping[Trial, Autoencoder],
    trials: Sequence[Trial],
    failures: Mapping[Trial, Failure],
    more: Mapping[Trial, dict[str, float | int]],
    rates: Mapping[str, Mapping[str, float]],
    machine: dict[str, str | int],
    command: str,
) -> Comparison:
    different = plan.different()
    methods = []
    for i, (name, config) in enumerate(plan.methods.items()):
        results = [
            failed_trial(trial, failures[trial])
            if trial in failures
            else finished_trial(trial, tokenizers[trial], more.get(trial, {}))
            for trial in trials
            if trial.method == name
        ]
        leave = {key: values[i] for key, values in different.items()}
        tokenizer = next((t for trial, t in tokenizers.items() if trial.method == name), None)
        methods.append(method_result(name, config, results, tokenizer, rates.get(name, {}), leave))
    measured = next(trial for m in methods for trial in m.trials if trial.status == "finished")
    return Comparison(
        command=command,
        data=plan.data_name(),
        num_images=int(measured.measures["num_images"]),
        train_identity=plan.train_identity,
        test_identity=plan.test_identity,
        seeds=plan.seeds,
        machine=machine,
        versions=versions(),
        methods=tuple(methods),
    )


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    libraries = {name: version(name) for name in ("torch", "accelerate")}
    return {"python": platform.python_version(), "imagetok": __version__, **libraries}


def failed_trial(trial: Trial, failure: Failure) -> TrialResult:
    """Return the result of a failed trial, without its message, which contains local paths."""
    killed = "its process was killed" if failure.code < 0 else "its process ended early"
    reason = _REASONS.get(failure.code, killed)
    return TrialResult(seed=trial.seed, status="failed", reason=reason, measures={}, curve=())


def machine_of(device: torch.device) -> dict[str, str | int]:
    """Return the hardware that determines speed, without the machine's name."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    for line in info.read_text().split("\n") if info.is_file() else []:
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    machine: dict[str, str | int] = {"processor": processor, "cores": os.cpu_count() or 1}
    if device.type == "cuda":
        machine["GPU"] = torch.cuda.get_device_name(device)
    return machine | {"system": f"{platform.system()} {platform.machine()}"}


def _write(result: Comparison, shown: Reconstructions, out: Path) -> None:
    write_json(out / "comparison.json", result.model_dump(mode="json", by_alias=True))
    write_bytes(out / "comparison.md", markdown(result).encode())
    write_bytes(out / "comparison.png", measures_figure(result))
    sweep = sweep_figure(result)
    if sweep is not None:
        write_bytes(out / "sweep.png", sweep)
    write_bytes(
        out / "reconstructions.png", png_bytes(reconstruction_grid(shown.rows, shown.drawn))
    )
    write_page(out / "report.html", result, shown)
