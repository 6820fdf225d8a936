"""What `imagetok compare` does: cells are `imagetok train` processes."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from imagetok.comparison import Cell, Comparison, Failure, compare, make_plan, table_of
from imagetok.errors import ConfigError, ResourceError
from imagetok.processes import process_state
from prior.comparison import make_later


def compare_configs(
    paths: Sequence[Path],
    out: Path,
    *,
    seeds: Sequence[int],
    overrides: Sequence[str],
    allow_different: Sequence[str],
    jobs: int | None,
    device: torch.device,
    features: Sequence[str] = (),
    prior: Path | None = None,
    num_samples: int | None = None,
) -> tuple[Comparison | None, dict[Cell, Failure]]:
    """Plan and run a comparison in the folder `out`; see `imagetok.comparison.compare`.

    jobs: cells side by side; None is one a GPU, or one a core on CPUs. features, prior,
    num_samples: see `make_later`.
    """
    if process_state().num_processes > 1:
        raise ConfigError("compare starts its own processes; start it without a launcher")
    if device.index:
        raise ConfigError(
            f"--device {device}: give cpu or cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    plan = make_plan(paths, seeds, overrides, allow_different)
    later = make_later(plan, features, prior, num_samples, device.type)

    def train(cell: Cell) -> list[str]:
        words = ["train", str(cell.config), "--set", f"seed={cell.seed}"]
        words += ["--out", str(cell.folder), "--resume", "--device", device.type]
        return [sys.executable, "-m", "cli.cell", *words]

    return compare(
        plan,
        out,
        train,
        slots=_slots(jobs, device),
        device=device,
        command=_command(paths, seeds, overrides, allow_different, features, prior, num_samples),
        later=later,
    )


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


def _command(
    paths: Sequence[Path],
    seeds: Sequence[int],
    overrides: Sequence[str],
    allow_different: Sequence[str],
    features: Sequence[str],
    prior: Path | None,
    num_samples: int | None,
) -> str:
    """The command as it can be published: without where things lie on this machine."""
    words = ["imagetok", "compare"]
    words += [_published(path) for path in paths]
    words += ["--seeds", ",".join(map(str, seeds))]
    for override in overrides:
        key, _, value = override.partition("=")
        is_place = key.startswith("data") and "/" in value
        words += ["--set", f"{key}=..." if is_place else override]
    words += [word for key in allow_different for word in ("--allow-different", key)]
    for spec in features:
        name, equals, file = spec.partition("=")
        words += ["--features", f"{name}{equals}{Path(file).name}"]
    words += [] if prior is None else ["--prior", _published(prior)]
    words += [] if num_samples is None else ["--samples", str(num_samples)]
    return shlex.join([*words, "--out", "DIR"])


def _published(config: Path) -> str:
    return str(Path(*config.parts[-2:]) if config.is_absolute() else config)


def parse_seeds(text: str) -> list[int]:
    """The seeds of `42,1773,1`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds {text}: expected whole numbers >= 0 as in 42,1773,1")
    return seeds


def summary(
    result: Comparison | None, failures: Mapping[Cell, Failure], out: Path
) -> Iterator[str]:
    """What to tell at the end: the table, methods as columns, then what failed."""
    if result is not None:
        header, rows = table_of(result)
        columns = [header, *rows]
        widths = [max(map(len, column)) for column in columns]
        for line in zip(*columns, strict=True):
            yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        yield f"written: {out}/comparison.md, .json, .png, reconstructions.png, report.html"
    for cell, failure in failures.items():
        yield f"failed: {cell.method}, seed {cell.seed}: {failure.message}"


def exit_code(failures: Mapping[Cell, Failure]) -> int:
    """0, or that of the first cell that failed; 5 where something killed it."""
    codes = [failure.code for failure in failures.values()]
    return (codes[0] if codes[0] > 0 else ResourceError.exit_code) if codes else 0
