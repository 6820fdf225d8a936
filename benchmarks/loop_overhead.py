"""What the training loop costs beside the work that it arranges.

    python benchmarks/loop_overhead.py [--against COMMIT] [--out FILE.json]

A tiny tokenizer is trained on single images, one thread, on the CPU. `loop` is a step of
imagetok.training.loop; `bare` is a step of a loop written out below, with the same batches, loss,
optimizer and updates. Their steps alternate in one process, and medians of CPU time are compared.
Afterwards a timer samples which part of a step each of them is at, a few thousand times. With
--against, processes that run the loop of an earlier commit alternate with those of this one.
"""

import argparse
import copy
import itertools
import json
import linecache
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from types import FrameType

import torch
from against_commit import ROOT, Version, checked_out
from machine import describe_machine

import imagetok
from imagetok.comparison.table import markdown_row, rule
from imagetok.config import apply_overrides, validate
from imagetok.training import loop
from imagetok.training.checkpoint import build_average
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.job import Job, build_accelerator
from imagetok.training.optimizer import build_optimizer
from imagetok.training.run_images import RunImages
from imagetok.training.tokenizer import _job

TINY = ("tokenizer.network.width=8", "tokenizer.network.residual_width=8", "train.batch_size=1",
        "train.steps=1000000", "train.trackers=[]")  # fmt: skip
CASES = {
    "VQ-VAE-EMA": ("digits/vqvae-ema",),
    "EdVAE, clipped and averaged": (
        "digits/edvae", "train.clip_norm=1.0", "train.ema_decay=0.999",
    ),
}  # fmt: skip
WARM_UP, MEASURED, SAMPLED = 50, 400, 600
"""Steps of each form in a process."""
INTERVAL = 0.0005  # seconds between samples
PARTS = {
    "reading the batch": ("next(", "unpack(", "send_to_device(", "read_at("),
    "seeding": ("reseed_global(", "seeding.", "noise.", "draws."),
    "loss": ("job.loss(",),
    "backward": ("backward(",),
    "combining micro-batches": ("detach()", "combine_outputs("),
    "watching for divergence": ("watch(",),
    "clipping": ("clip_grad_norm_(",),
    "optimizer": ("optimizer.step(", "zero_grad("),
    "codebook update": ("job.update(",),
    "averaged weights": ("update_parameters(",),
    "unwrapping the model": ("unwrap_model(",),
    "training mode": (".train()",),
}
"""What the lines of a step that belong to a part contain."""
REST = "the rest"


def bare_steps(job: Job, config: TrainConfig) -> Iterator[None]:
    """Take steps of the job, each time the iterator advances, without the loop."""
    model = copy.deepcopy(job.model).train()
    average = build_average(model, config.ema_decay)
    optimizer = build_optimizer(model, config.optimizer)
    draw = torch.Generator().manual_seed(0)
    for step in itertools.count():
        batch = job.unpack(job.dataset.read_at([step % len(job.dataset)], [0]))  # pyright: ignore[reportAttributeAccessIssue]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate.at(step)
        output = job.loss(model, batch, step, draw)
        output.loss.backward()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        job.update(model, output.sums | output.rows, draw)
        if average is not None:
            average.update_parameters(model)
        yield


def milliseconds(steps: Iterator[None]) -> float:
    """CPU time of one step."""
    begun = time.process_time()
    next(steps)
    return (time.process_time() - begun) * 1e3


def part_of(frame: FrameType | None) -> str:
    """The part of a step that a frame is at or was called from."""
    files = (loop.__file__, __file__)
    while frame is not None and frame.f_code.co_filename not in files:
        frame = frame.f_back
    if frame is None:
        return REST
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return next((name for name, words in PARTS.items() if any(w in line for w in words)), REST)


def shares(steps: Iterator[None]) -> dict[str, float]:
    """Share of the time that steps spend in each part, from samples at equal intervals."""
    found: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, lambda number, frame: found.update([part_of(frame)]))
    signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    for _ in islice(steps, SAMPLED):
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {name: count / found.total() for name, count in found.items()}


def measure(name: str, *overrides: str) -> dict[str, dict[str, float]]:
    """Milliseconds of a step of each form: in all, and of each part."""
    tree = apply_overrides(imagetok.configs(name).tree, [*TINY, *overrides])
    run, nowhere = validate(tree, TokenizerRun, name), Path("nowhere")
    accelerator = build_accelerator(run.train, nowhere, "cpu")
    job = _job(run, nowhere, RunImages(run, nowhere, resume=False), None)
    with ExitStack() as stack:
        forms = {
            "bare": bare_steps(job, run.train),
            "loop": loop.rehearse(job, run.train, accelerator=accelerator, seed=0),
        }
        for steps in forms.values():
            stack.enter_context(closing(steps))  # pyright: ignore[reportArgumentType]
        times = [{form: milliseconds(steps) for form, steps in forms.items()}
                 for _ in range(WARM_UP + MEASURED)][WARM_UP:]  # fmt: skip
        found = {}
        for form, steps in forms.items():
            step = statistics.median(each[form] for each in times)
            parts = {part: step * share for part, share in shares(steps).items()}
            found[form] = {"step": step, **parts}
        return found


def medians(rounds: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The median of every figure over processes; a part that a process lacks took no time."""
    taken = list(rounds)
    return {
        form: {
            part: round(statistics.median(each[form].get(part, 0.0) for each in taken), 3)
            for part in ("step", *PARTS, REST)
        }
        for form in ("bare", "loop")
    }


def table(versions: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """Lines of a table of one case: the bare step, and what each version's loop adds to it."""
    yield markdown_row(["ms a step", "bare", *(f"{version} adds" for version in versions)])
    yield rule(2 + len(versions))
    bare = next(reversed(versions.values()))["bare"]
    for part in ("step", *PARTS, REST):
        added = [found["loop"][part] - found["bare"][part] for found in versions.values()]
        yield markdown_row([part, f"{bare[part]:.2f}", *(f"{ms:.2f}" for ms in added)])


def main() -> None:
    """Measure, print tables, and store the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--against", metavar="COMMIT", help="an earlier commit to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each case and version")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)  # in its own process
    asked = parser.parse_args()
    if asked.case:
        torch.set_num_threads(1)
        print(json.dumps(measure(*CASES[asked.case])))
        return
    with tempfile.TemporaryDirectory(prefix="loop-overhead-") as name, ExitStack() as stack:
        work = Path(name)
        versions = {"this version": Version(ROOT)}
        if asked.against:
            old = stack.enter_context(checked_out(asked.against, work / "tree"))
            versions = {asked.against: old, **versions}
        results = {}
        for case in CASES:
            rounds: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in versions}
            for _ in range(asked.rounds):
                for title, version in versions.items():
                    printed = version.python(work, [__file__, "--case", case], "")
                    rounds[title].append(json.loads(printed.splitlines()[-1]))
            results[case] = {title: medians(taken) for title, taken in rounds.items()}
            print(f"{case}\n", *table(results[case]), "", sep="\n", flush=True)
    record = {"machine": describe_machine("torch", "accelerate"), "cases": results}
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
