"""`imagetok.compare`: a comparison from configs; each trial is a process of `imagetok train`."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imagetok.comparison.follow_up import FollowUp
from imagetok.comparison.plan import SEEDS, ComparisonPlan, Trial, make_plan
from imagetok.comparison.results import Comparison
from imagetok.comparison.runner import run_comparison
from imagetok.comparison.subprocesses import Failure, imagetok_command
from imagetok.comparison.sweep_configs import sweep_texts
from imagetok.comparison.table import table_of
from imagetok.comparison.trial_distances import check_networks, feature_follow_up
from imagetok.config import Overrides, override_texts
from imagetok.data import open_images
from imagetok.data.headers import LOOKED_AT
from imagetok.errors import ConfigError, ResourceError
from imagetok.plugins.loading import loaded_plugins
from imagetok.plugins.records import check_portable
from imagetok.processes import choose_device, process_state, usable_cpus
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.training.checkpoint_record import FINISHED
from imagetok.training.config_input import with_allowance
from imagetok.training.job import check_machine
from imagetok.training.run_images import SkippedImage, parse_check, read_skipped


@dataclass(frozen=True, repr=False)
class CompareResult(Result):
    """The result of `compare`: the measures, the failed trials and the folder of all files."""

    folder: Path
    comparison: Comparison | None
    """Content of comparison.json; None if no trial finished."""
    failures: Mapping[Trial, Failure]
    """Trials that failed in training or in a follow-up step."""
    skipped: tuple[SkippedImage, ...] = ()
    """Training and test images that a trial could not read, each once."""

    @property
    def exit_code(self) -> int:
        """0, or 4 for skipped images, or the exit code of the first failed trial.

        It is 5 if the trial's process was killed.
        """
        codes = [failure.code for failure in self.failures.values()]
        if codes:
            return codes[0] if codes[0] > 0 else ResourceError.exit_code
        return 4 if self.skipped else 0

    def title(self) -> str:
        if self.comparison is None:
            return f"comparison in {self.folder}: no run finished"
        methods = counted(len(self.comparison.methods), "tokenizer")
        return f"{methods} on {self.comparison.data}, in {self.folder}"

    def rows(self) -> dict[str, object]:
        """Return the table's columns by title, one value per method, then the failures."""
        found: dict[str, object] = {}
        if self.comparison is not None:
            header, rows = table_of(self.comparison)
            found = {
                title: " | ".join(row[i] for row in rows)
                for i, title in enumerate(header)
                if any(row[i] for row in rows)
            }
        for trial, failure in self.failures.items():
            found[f"failed: {trial.method}, seed {trial.seed}"] = failure.message
        return found

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the figure of measures and the reconstructions by every method."""
        files = {"comparison.png": "measures", "reconstructions.png": "reconstructions"}
        return {
            caption: np.array(Image.open(self.folder / name).convert("RGB"))
            for name, caption in files.items()
            if self.comparison is not None and (self.folder / name).is_file()
        }


@dataclass(frozen=True)
class Request:
    """The arguments of a comparison."""

    configs: tuple[Path | str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    sweeps: tuple[str, ...]
    allow_different: tuple[str, ...]
    features: tuple[str, ...]

    def command(self, more: Sequence[str] = ()) -> str:
        """Return the command line without paths of this machine."""
        plugins = [word for p in loaded_plugins() for word in ("--plugin", Path(p).name)]
        words = ["imagetok", *plugins, "compare"]
        words += [published(path) for path in self.configs]
        words += ["--seeds", ",".join(map(str, self.seeds))]
        for override in self.overrides:
            key, _, value = override.partition("=")
            is_place = key.startswith("data") and "/" in value
            words += ["--set", f"{key}=..." if is_place else override]
        words += [word for text in self.sweeps for word in ("--sweep", text)]
        words += [word for key in self.allow_different for word in ("--allow-different", key)]
        for spec in self.features:
            name, equals, file = spec.partition("=")
            words += ["--features", f"{name}{equals}{Path(file).name}"]
        return shlex.join([*words, *more, "--out", "DIR"])


def compare(
    configs: Sequence[Path | str],
    out: Path | str,
    *,
    seeds: Sequence[int] = SEEDS,
    set: Overrides = (),
    sweep: Overrides = (),
    allow_different: Sequence[str] = (),
    features: Sequence[str] = (),
    max_skip: int | str | None = None,
    check: int | str = LOOKED_AT,
    jobs: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Train tokenizers with the same network, data, budget and seeds, and compare them in `out`.

    configs: files or names of tokenizer configs. seeds: each config is trained with each seed.
    set: overrides for every config. sweep: train each config with each of these values too,
    `a.b=V1,V2` or {"a.b": [v1, v2]}. allow_different: keys of `plan.MAY_DIFFER` in which the
    configs may differ. features: networks for distances of reconstructions, as accepted by
    `imagetok evaluate --features`. max_skip, check: as for `imagetok.train`.
    jobs: number of parallel runs, each in its own process; None is
    one per GPU, or one per core on CPUs. device: `cpu` or `cuda`.

    Call it again with the same arguments to continue after an interruption and to repeat failed
    trials. `prior.compare` also trains a prior on the codes of each tokenizer.

    Writes comparison.json, .md, .png, reconstructions.png and report.html.

    Raises ConfigError if the configs are not comparable, `out` holds another comparison, or this
    machine lacks the precision or a tracker of a config. Failed trials are listed in the result's
    `failures`.

    >>> result = imagetok.compare(["a.yaml", "b.yaml"], "runs/comparison", seeds=[42])
    """
    overrides = with_allowance(set, max_skip)
    request = request_of(configs, seeds, overrides, sweep, allow_different, features)
    chosen = device_for_runs(device)

    def follow_up(plan: ComparisonPlan) -> FollowUp | None:
        check_networks(request.features, plan.trials(Path(out)), chosen)
        return feature_follow_up(plan.data, request.features, chosen.type, plan.max_skip)

    with progress_shown(progress):
        return run_request(request, Path(out), follow_up, check=check, jobs=jobs, device=chosen)


def request_of(
    configs: Sequence[Path | str],
    seeds: Sequence[int],
    overrides: Overrides,
    sweeps: Overrides,
    allow_different: Sequence[str],
    features: Sequence[str],
) -> Request:
    """Check the arguments of `compare` and return them as a Request."""
    if isinstance(configs, str | Path):
        raise ConfigError(f"configs: expected a list of config files, found the single {configs}")
    if process_state().num_processes > 1:
        raise ConfigError("compare starts its own processes; run it without a launcher")
    return Request(
        tuple(configs),
        tuple(seeds),
        tuple(override_texts(overrides)),
        tuple(sweep_texts(sweeps)),
        tuple(allow_different),
        tuple(features),
    )


def device_for_runs(device: torch.device | str | None) -> torch.device:
    """Return the device; raise ConfigError for a numbered GPU: runs are spread over all GPUs."""
    chosen = choose_device(device)
    if chosen.index:
        raise ConfigError(
            f"--device {chosen}: expected cpu or cuda; choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    return chosen


def run_request(
    request: Request,
    out: Path,
    follow_up: Callable[[ComparisonPlan], FollowUp | None],
    *,
    check: int | str,
    jobs: int | None,
    device: torch.device,
    more_words: Sequence[str] = (),
) -> CompareResult:
    """Plan and run a comparison; more_words: more options for the recorded command."""
    parse_check(check)
    plan = make_plan(
        request.configs,
        request.seeds,
        request.overrides,
        request.allow_different,
        request.sweeps,
    ).with_recorded_lengths(out)

    check_portable(plan.methods, "compare")
    for trial in plan.trials(out):
        if not (trial.folder / FINISHED).is_file():
            check_machine(plan.methods[trial.method].train, device, f"{trial.method}: ")

    result, failures = run_comparison(
        plan,
        out,
        lambda trial: training_command(trial, device, check),
        slots=slots_for(jobs, device),
        device=device,
        command=request.command(more_words),
        follow_up=follow_up(plan),
    )
    return CompareResult(out, result, failures, _skipped(plan.trials(out)))


def _skipped(trials: Sequence[Trial]) -> tuple[SkippedImage, ...]:
    """Return the images that some trial skipped, by path."""
    lists = [read_skipped(trial.folder) for trial in trials]
    found = {image.path: image for skips in lists for image in (*skips.train, *skips.test)}
    return tuple(found[path] for path in sorted(found))


def training_command(trial: Trial, device: torch.device, check: int | str = LOOKED_AT) -> list[str]:
    """Return the command that trains a trial, or continues it; check: as for `imagetok.train`."""
    words = ["train", str(trial.config), "--set", f"seed={trial.seed}"]
    words += ["--out", str(trial.folder), "--resume", "--device", device.type]
    words += [] if check == LOOKED_AT else ["--check", str(check)]
    return imagetok_command(*words)


def num_images_of(plan: ComparisonPlan, split: str) -> int:
    """Return the number of images of a comparison's split."""
    config = next(iter(plan.methods.values()))
    return len(open_images(config.data, split, config.tokenizer.image))


def published(config: Path | str) -> str:
    """Return a config's name, or its path without the folders of this machine."""
    path = Path(config)
    return str(Path(*path.parts[-2:]) if path.is_absolute() else path)


def slots_for(jobs: int | None, device: torch.device) -> list[dict[str, str]]:
    """Return the environment of each slot for a run: one thread, and one of the GPUs."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if device.type != "cuda":
        return [threads] * (jobs or usable_cpus())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    gpus = visible.split(",")
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs or len(gpus))
    ]
