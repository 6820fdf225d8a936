"""What the training loop costs beside the work that it arranges.

    python benchmarks/loop_overhead.py [--against COMMIT] [--out FILE.json]

A tiny tokenizer is trained on single images, one thread, on the CPU. `loop` is a step of
imagetok.training.learner; `bare` is a step of a loop written out below, with the same batches,
loss, optimizer and updates. Their steps alternate in one process, and medians of CPU time are
compared. Every other step has a clock between its statements, for the parts of a step. With
--against, processes that run the loop of an earlier commit alternate with those of this one.
"""

import argparse
import ast
import copy
import inspect
import itertools
import json
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from against_commit import ROOT, Version, checked_out
from machine import describe_machine
from torch import nn
from torch.optim.swa_utils import AveragedModel

import imagetok
from imagetok.comparison.table import markdown_row, rule
from imagetok.config import apply_overrides, validate
from imagetok.training import loop
from imagetok.training.checkpoint import build_average
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.job import Job, build_accelerator
from imagetok.training.learner import Learner
from imagetok.training.optimizer import build_optimizer
from imagetok.training.run_images import RunImages
from imagetok.training.schedules import values_at
from imagetok.training.tokenizer import _job

TINY = ("tokenizer.network.width=8", "tokenizer.network.residual_width=8", "train.batch_size=1",
        "train.steps=1000000", "train.trackers=[]")  # fmt: skip
CASES = {
    "VQ-VAE-EMA": ("digits/vqvae-ema",),
    "EdVAE, clipped and averaged": (
        "digits/edvae", "train.clip_norm=1.0", "train.ema_decay=0.999",
    ),
}  # fmt: skip
WARM_UP, MEASURED = 50, 400
"""Steps of each form in a process."""
PARTS = {
    "reading the batch": ("next(", "unpack(", "send_to_device(", "read_at("),
    "seeding": ("reseed_global(", "seeding.", "noise.at("),
    "loss": ("job.loss(",),
    "backward": ("backward(",),
    "combining micro-batches": ("output.detach()", "reduction.combine("),
    "watching for divergence": ("watch(",),
    "clipping": ("clip_grad_norm_(",),
    "optimizer": ("optimizer.step(", "zero_grad("),
    "codebook update": ("job.update(",),
    "averaged weights": ("update_parameters(",),
    "unwrapping the model": ("unwrap_model(",),
    "training mode": (".train()",),
}
"""What the statements of a step that belong to a part contain."""
REST = "the rest"


def bare_steps(job: Job, config: TrainConfig) -> Iterator[None]:
    """Take steps of the job without the loop, one each time the iterator advances."""
    model = copy.deepcopy(job.model).train()
    average = build_average(model, config.ema_decay)
    optimizer = build_optimizer(model, config.optimizer)
    draw = torch.Generator().manual_seed(0)
    for step in itertools.count():
        bare_step(job, config, model, average, optimizer, draw, step)
        yield


def bare_step(
    job: Job,
    config: TrainConfig,
    model: nn.Module,
    average: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    draw: torch.Generator,
    step: int,
) -> None:
    """One step of the job as it is written down without a library."""
    batch = job.unpack(job.dataset.read_at([step % len(job.dataset)], [0]))  # pyright: ignore[reportAttributeAccessIssue]
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate.at(step)
    output = job.loss(model, batch, values_at(job.schedules, step), draw)
    output.loss.backward()
    if config.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    job.update(model, output.sums | output.rows, draw)
    if average is not None:
        average.update_parameters(model)


class Clock:
    """CPU time of the parts of each step, measured between its statements."""

    def __init__(self) -> None:
        self._steps: list[dict[str, float]] = []
        self._last = 0.0

    def start(self) -> None:
        """Begin a step."""
        self._steps.append(dict.fromkeys((*PARTS, REST), 0.0))
        self._last = time.process_time()

    def note(self, statement: str) -> None:
        """Add the time since the previous note to the part of a statement."""
        passed = time.process_time() - self._last
        named = (name for name, words in PARTS.items() if any(w in statement for w in words))
        self._steps[-1][next(named, REST)] += passed
        self._last = time.process_time()

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part, after the warm-up."""
        steps = self._steps[WARM_UP:]
        return {part: 1e3 * statistics.median(s[part] for s in steps) for part in PARTS}

    def between_statements(
        self, function: Callable[..., Any], *, begins: bool = True
    ) -> Callable[..., Any]:
        """The same function with a note after each statement, or before one that holds others.

        begins: whether a step begins with it; otherwise another function of the step calls it.
        """
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        start = ast.parse("clock.start()").body if begins else []
        definition.body = [*start, *self._noted(definition.body)]
        names = {**function.__globals__, "clock": self}
        exec(compile(ast.fix_missing_locations(tree), __file__, "exec"), names)
        return names[definition.name]

    def _noted(self, body: list[ast.stmt]) -> list[ast.stmt]:
        noted: list[ast.stmt] = []
        for statement in body:
            note = ast.parse(f"clock.note({ast.unparse(statement)!r})").body[0]
            if isinstance(statement, ast.For | ast.With):
                statement.body = self._noted(statement.body)
                note = ast.parse("clock.note('')").body[0]
            noted += [note, statement] if isinstance(statement, ast.Return) else [statement, note]
        return noted


def milliseconds(steps: Iterator[None]) -> float:
    """CPU time of one step."""
    begun = time.process_time()
    next(steps)
    return (time.process_time() - begun) * 1e3


def measure(name: str, *overrides: str) -> dict[str, dict[str, float]]:
    """Milliseconds of a step of each form: in all, and of each part."""
    tree = apply_overrides(imagetok.configs(name).tree, [*TINY, *overrides])
    run, nowhere = validate(tree, TokenizerRun, name), Path("nowhere")
    accelerator = build_accelerator(run.train, nowhere, "cpu")
    job = _job(run, nowhere, RunImages(run, nowhere, resume=False), None)
    forms = {
        "bare": bare_steps(job, run.train),
        "loop": loop.rehearse(job, run.train, accelerator=accelerator, seed=0),
    }
    with ExitStack() as stack:
        for steps in forms.values():
            stack.callback(steps.close)  # pyright: ignore[reportAttributeAccessIssue]
        plain = {"bare_step": bare_step}
        methods = {name: getattr(Learner, name) for name in ("take", "_inputs", "_gradient_step")}
        clocks = {form: Clock() for form in forms}
        clocked = {"bare_step": clocks["bare"].between_statements(bare_step)}
        clocked_methods = {
            name: clocks["loop"].between_statements(method, begins=name == "take")
            for name, method in methods.items()
        }
        times: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(WARM_UP + MEASURED):
            for functions, of_loop in ((clocked, clocked_methods), (plain, methods)):
                globals().update(functions)
                for name, method in of_loop.items():
                    setattr(Learner, name, method)
                taken = {form: milliseconds(steps) for form, steps in forms.items()}
            for form, ms in taken.items():
                times[form].append(ms)
    found = {}
    for form, clock in clocks.items():
        step = statistics.median(times[form][WARM_UP:])
        parts = clock.medians()
        found[form] = {"step": step, **parts, REST: step - sum(parts.values())}
    return found


def medians(rounds: Iterable[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The median of every figure over processes."""
    taken = list(rounds)
    return {
        form: {
            part: round(statistics.median(each[form][part] for each in taken), 3)
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
    against = "an earlier commit to compare with, which has imagetok.training.learner"
    parser.add_argument("--against", metavar="COMMIT", help=against)
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
