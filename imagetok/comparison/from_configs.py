"""A comparison from config files: each cell is a process of `imagetok train`."""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from imagetok.comparison.features import feature_follow_up
from imagetok.comparison.follow_up import FollowUp
from imagetok.comparison.plan import SEEDS, ComparisonPlan, Trial, make_plan
from imagetok.comparison.results import Comparison
from imagetok.comparison.runner import run_comparison
from imagetok.comparison.subprocesses import Failure, imagetok_command
from imagetok.comparison.sweep_configs import sweep_texts
from imagetok.comparison.table import table_of
from imagetok.config import Overrides, override_texts
from imagetok.data import open_images
from imagetok.errors import ConfigError, ResourceError
from imagetok.plugins.loading import loaded_plugins
from imagetok.plugins.records import check_portable
from imagetok.processes import choose_device, process_state
from imagetok.progress import progress_shown
from imagetok.results import Result


@dataclass(frozen=True, repr=False)
class CompareResult(Result):
    """What a comparison gave, and the folder that holds all of it."""

    folder: Path
    comparison: Comparison | None
    """What comparison.json holds; None where no cell finished."""
    failures: Mapping[Trial, Failure]
    """The cells that failed, also those that did so after training."""

    @property
    def exit_code(self) -> int:
        """0, or that of the first cell that failed; 5 where something killed it."""
        codes = [failure.code for failure in self.failures.values()]
        return (codes[0] if codes[0] > 0 else ResourceError.exit_code) if codes else 0

    def title(self) -> str:
        if self.comparison is None:
            return f"comparison in {self.folder}: no run finished"
        methods = len(self.comparison.methods)
        return f"{methods} tokenizers on {self.comparison.data}, in {self.folder}"

    def rows(self) -> dict[str, object]:
        """The table's columns by their titles, with one value a method, then what failed."""
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
        """Measures over the steps, and reconstructions of every method."""
        files = {"comparison.png": "measures", "reconstructions.png": "reconstructions"}
        return {
            caption: np.array(Image.open(self.folder / name).convert("RGB"))
            for name, caption in files.items()
            if self.comparison is not None and (self.folder / name).is_file()
        }


@dataclass(frozen=True)
class Request:
    """What to compare, as the caller gave it."""

    configs: tuple[Path | str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    sweeps: tuple[str, ...]
    allow_different: tuple[str, ...]
    features: tuple[str, ...]

    def command(self, more: Sequence[str] = ()) -> str:
        """The command line as it can be published: without where things lie on this machine."""
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
    jobs: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Train tokenizers on the same network, data, budget and seeds, and compare them in `out`.

    configs: files or names of tokenizers' configs. set: overrides for every config. sweep: each
    config also with each of these values, `a.b=V1,V2` or {"a.b": [v1, v2]}. allow_different: keys
    of `plan.MAY_DIFFER` in which the configs may differ. features: networks to measure the distance
    of reconstructions in, as `imagetok evaluate --features` takes them. jobs: runs side by side,
    each a process of its own; None is one a GPU, or one a core on CPUs. device: `cpu` or `cuda`.
    Called again with the same arguments it goes on after a stop, and trains again what failed.
    `prior.compare` also trains a prior on the codes of each.

    Writes comparison.json, .md, .png, reconstructions.png and report.html. Raises ConfigError
    where the configs are not comparable and for a folder of another comparison; a run that fails
    is told in the result's `failures`.

    >>> result = imagetok.compare(["a.yaml", "b.yaml"], "runs/comparison", seeds=[42])
    """
    request = request_of(configs, seeds, set, sweep, allow_different, features)
    chosen = device_for_runs(device)

    def follow_up(plan: ComparisonPlan) -> FollowUp | None:
        return feature_follow_up(plan, request.features, num_test_images(plan), chosen.type)

    with progress_shown(progress):
        return run_request(request, Path(out), follow_up, jobs=jobs, device=chosen)


def request_of(
    configs: Sequence[Path | str],
    seeds: Sequence[int],
    overrides: Overrides,
    sweeps: Overrides,
    allow_different: Sequence[str],
    features: Sequence[str],
) -> Request:
    """The arguments of `compare` in one form."""
    if isinstance(configs, str | Path):
        raise ConfigError(f"configs: expected several config files, found the one {configs}")
    if process_state().num_processes > 1:
        raise ConfigError("compare starts its own processes; start it without a launcher")
    return Request(
        tuple(configs),
        tuple(seeds),
        tuple(override_texts(overrides)),
        tuple(sweep_texts(sweeps)),
        tuple(allow_different),
        tuple(features),
    )


def device_for_runs(device: torch.device | str | None) -> torch.device:
    """The device asked for; ConfigError for one GPU of several, which runs choose in turn."""
    chosen = choose_device(device)
    if chosen.index:
        raise ConfigError(
            f"--device {chosen}: give cpu or cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    return chosen


def run_request(
    request: Request,
    out: Path,
    follow_up: Callable[[ComparisonPlan], FollowUp | None],
    *,
    jobs: int | None,
    device: torch.device,
    more_words: Sequence[str] = (),
) -> CompareResult:
    """Plan and run a comparison. more_words: of the published command, beside the request's."""
    plan = make_plan(
        request.configs,
        request.seeds,
        request.overrides,
        request.allow_different,
        request.sweeps,
    ).with_recorded_lengths(out)

    check_portable(plan.methods, "compare")

    def train(trial: Trial) -> list[str]:
        words = ["train", str(trial.config), "--set", f"seed={trial.seed}"]
        words += ["--out", str(trial.folder), "--resume", "--device", device.type]
        return imagetok_command(*words)

    result, failures = run_comparison(
        plan,
        out,
        train,
        slots=_slots(jobs, device),
        device=device,
        command=request.command(more_words),
        follow_up=follow_up(plan),
    )
    return CompareResult(out, result, failures)


def num_test_images(plan: ComparisonPlan) -> int:
    """How many images all methods are measured on."""
    config = next(iter(plan.methods.values()))
    return len(open_images(config.data, "test", config.tokenizer.image))


def published(config: Path | str) -> str:
    """A config's path or name as others can use it."""
    path = Path(config)
    return str(Path(*path.parts[-2:]) if path.is_absolute() else path)


def _slots(jobs: int | None, device: torch.device) -> list[dict[str, str]]:
    """The environment of each place to train in: one thread, and a GPU of its own in turn."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if device.type != "cuda":
        return [threads] * (jobs or _cores())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    gpus = visible.split(",")
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs or len(gpus))
    ]


def _cores() -> int:
    """Those that this process may use; macOS cannot tell."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
