"""What a step of two processes costs, and how often they wait for each other in it.

    python benchmarks/two_processes.py [--against COMMIT] [--rounds 5] [--out FILE.json]

Small models are trained on noise by two processes of this machine over gloo, one thread each. The
figures are the median time of a step, its fastest tenth, which other programs disturb less, and
the collectives of a step besides those of the gradients. With --against, runs of an earlier commit
alternate with those of this version.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from against_commit import ROOT, checked_out
from machine import describe_machine

from imagetok.comparison.table import markdown_row, rule
from imagetok.config import apply_overrides, validate
from imagetok.named_configs import find_config
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.job import Job, build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.tokenizer import job_on_noise
from prior.config import PriorRun
from prior.estimate import NoiseCodes
from prior.training import CodeForm, job_on

SMALL = ("tokenizer.network.width=8", "tokenizer.network.residual_width=8", "train.batch_size=4")
CASES = {
    "VQ-VAE-EMA": ("digits/vqvae-ema", *SMALL),
    "VQ-VAE-2": ("shapes/vqvae2", "tokenizer.network.width=8", "train.batch_size=4"),
    "VQ-VAE, random reset": (
        "digits/vqvae", *SMALL, "tokenizer.quantizer.reset={kind: random}",
    ),
    "EdVAE": ("digits/edvae", *SMALL),
    "GPT": ("digits/gpt", "model.layers=1", "model.width=32", "train.batch_size=4"),
}  # fmt: skip
WARM_UP, MEASURED = 20, 200
"""Steps of a run."""
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "barrier")


def job_of(name: str, *overrides: str) -> tuple[Job, TrainConfig]:
    """A job on noise of a named config."""
    tree = apply_overrides(
        find_config(name).tree, [*overrides, "train.trackers=[]", "train.steps=1000000"]
    )
    if tree["kind"] == "tokenizer":
        run = validate(tree, TokenizerRun, name)
        return job_on_noise(run), run.train
    run = validate(tree, PriorRun, name)
    form = CodeForm("", (64,), ((4, 4),), "", ())
    return job_on(run, form, NoiseCodes(form))[0], run.train


def count_collectives(counts: list[int]) -> None:
    """From here on, add one to the last count at each collective."""
    for name in COLLECTIVES:
        genuine = getattr(torch.distributed, name)

        def counted(*arguments: Any, genuine: Any = genuine, **options: Any) -> Any:
            counts[-1] += 1
            return genuine(*arguments, **options)

        setattr(torch.distributed, name, counted)


def measure(case: str) -> dict[str, float]:
    """Milliseconds and collectives of a step, in this process."""
    torch.set_num_threads(1)
    job, config = job_of(*CASES[case])
    accelerator = build_accelerator(config, Path("nowhere"), "cpu")
    counts, times = [0], []
    count_collectives(counts)
    steps = rehearse(job, config, accelerator=accelerator, seed=0)
    for _ in range(WARM_UP + MEASURED):
        counts.append(0)
        begun = time.perf_counter()
        next(steps)
        times.append((time.perf_counter() - begun) * 1e3)
    steps.close()
    return {
        "step_ms": statistics.median(times[WARM_UP:]),
        "fast_ms": statistics.quantiles(times[WARM_UP:], n=10)[0],
        "collectives": statistics.median(counts[1 + WARM_UP :]),
    }


def two_processes(tree: Path, case: str, folder: Path) -> dict[str, float]:
    """What the first of two processes of a source tree measures."""
    out = folder / "measured.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", __file__, "--case", case, "--out", str(out)]
    environment = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, env=os.environ | environment, cwd=folder, check=True)
    return json.loads(out.read_text())


def table(results: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Lines of a table: a case a row."""
    versions = list(next(iter(results.values())))
    columns = {"step_ms": "median ms", "fast_ms": "fastest tenth, ms", "collectives": "collectives"}
    heads = [f"{what}, {v}" for what in columns.values() for v in versions]
    yield markdown_row(["", *heads])
    yield rule(1 + len(heads))
    for case, found in results.items():
        values = [f"{found[version][key]:.3g}" for key in columns for version in versions]
        yield markdown_row([case, *values])


def main() -> None:
    """Measure, print a table, and store the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--against", metavar="COMMIT", help="an earlier commit to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case and version")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES), metavar="CASE")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # in a process of its own
    asked = parser.parse_args()
    if asked.case:
        found = measure(asked.case)
        if torch.distributed.get_rank() == 0:
            asked.out.write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="two-processes-") as name, ExitStack() as stack:
        work = Path(name)
        versions = {"this version": ROOT}
        if asked.against:
            old = stack.enter_context(checked_out(asked.against, work / "tree"))
            versions = {asked.against: old.tree, **versions}
        results = {}
        for case in asked.only:
            rounds: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
            for _ in range(asked.rounds):
                for version, tree in versions.items():
                    rounds[version].append(two_processes(tree, case, work))
            results[case] = {
                version: {
                    key: round(statistics.median(each[key] for each in taken), 3)
                    for key in taken[0]
                }
                for version, taken in rounds.items()
            }
    print(*table(results), sep="\n")
    if asked.out:
        record = {"machine": describe_machine("torch", "accelerate"), "cases": results}
        asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
