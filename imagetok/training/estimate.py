"""Estimating the time and memory of a run from a few steps that are taken and thrown away."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import torch
from accelerate import Accelerator

from imagetok.errors import ImagetokError
from imagetok.processes import peak_memory_mb
from imagetok.results import Result, duration_text
from imagetok.suggestions import counted
from imagetok.training.config import TrainConfig
from imagetok.training.facts import RunFacts
from imagetok.training.job import Job
from imagetok.training.loop import rehearse

WARM_UP, FEWEST, MOST, SECONDS = 2, 3, 8, 10.0
"""Steps before the measured ones, limits of their number, and the time after which they end."""
SHOWN = 5
"""Number of unreadable examples that are named."""
PATIENCE = 60.0
"""Seconds after which even fewer steps are enough."""
EVALUATION_SHARE = 1 / 3
"""Time of evaluating an image, relative to a training step's: forward without backward."""


@dataclass(frozen=True, repr=False)
class RunEstimate(Result):
    """The result of a dry run: facts, time and memory. Nothing was written."""

    facts: RunFacts
    device: str
    """Device of the measured steps."""
    evaluations: int
    """Number of evaluations on the held-out images."""
    seconds_per_step: float | None = None
    """Median of the measured steps, including reading their images; None if no step can be taken,
    because the form of the codes is unknown."""
    seconds: float | None = None
    """Estimate for the whole run: its steps, and its evaluations at a third of the time of an image
    in a step."""
    peak_memory_mb: float | None = None
    """Peak resident memory of this process in MiB, up to the end of the measured steps."""
    peak_gpu_memory_mb: float | None = None
    """Peak memory of tensors on the GPU in MiB; None on a CPU."""
    refusal: ImagetokError | None = None
    """What the run would be refused with, because images, codes or the tokenizer are missing or
    damaged. Steps were then measured on noise, and neither reading nor evaluations are counted.
    None if it can start."""
    on_gpu: Mapping[str, str] = field(default_factory=dict)
    """Time of a run like this on a GPU where it was measured; see `gpu_times.times_on_gpu`."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Training images that the measured steps met and could not read, path -> reason; others took
    their place."""

    def title(self) -> str:
        """Return the title of the facts."""
        return f"{self.facts.title()}; estimate, nothing was written"

    def rows(self) -> Mapping[str, object]:
        """Return the facts, then device, time and memory."""
        shown = islice(self.unreadable.items(), SHOWN)
        paths = ", ".join(f"{path} ({reason})" for path, reason in shown)
        more = ", ..." if len(self.unreadable) > SHOWN else ""
        unreadable = f"{len(self.unreadable):,} in these steps: {paths}{more}"
        return {
            **self.facts.rows(),
            **({"unreadable": unreadable} if self.unreadable else {}),
            "device": self.device,
            **self._costs(),
            **self.on_gpu,
        }

    def _costs(self) -> Mapping[str, object]:
        if self.seconds_per_step is None or self.seconds is None or self.peak_memory_mb is None:
            return {}
        if self.refusal is None:
            how, what = "measured", f", with {counted(self.evaluations, 'evaluation')}"
        else:
            how, what = "measured on noise", ", without reading and evaluations"
        gpu = self.peak_gpu_memory_mb
        return {
            "a step": f"{duration_text(self.seconds_per_step)}, {how}",
            "time, about": f"{duration_text(self.seconds)}{what}",
            "memory, about": f"{self.peak_memory_mb:,.0f} MiB, the peak of the measured steps",
            **({} if gpu is None else {"GPU memory, about": f"{gpu:,.0f} MiB"}),
        }


def estimate_run(
    job: Job,
    config: TrainConfig,
    *,
    accelerator: Accelerator,
    seed: int,
    limit: float = SECONDS,
    refusal: ImagetokError | None = None,
) -> RunEstimate:
    """Take up to ten steps of a run without a run folder, and estimate time and memory of them all.

    limit: seconds after which no more steps are taken than needed. refusal: of the run, if the job
    has noise in place of what is missing.
    Raises what a step of the run raises, such as InputError for an image that cannot be read.
    """
    assert job.facts is not None
    device = accelerator.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with closing(rehearse(job, config, accelerator=accelerator, seed=seed)) as steps:
        taken = list(islice(_seconds(steps, device, limit), WARM_UP + MOST))
    step = statistics.median(taken[WARM_UP:] or taken)
    evaluations = evaluations_of(config)
    image = step / config.batch_size * EVALUATION_SHARE
    return RunEstimate(
        job.facts,
        str(device),
        evaluations,
        step,
        config.steps * step + evaluations * (job.facts.held_out or 0) * image,
        peak_memory_mb(),
        torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        refusal,
    )


def evaluations_of(config: TrainConfig) -> int:
    """Return how often a run is evaluated."""
    return -(-config.steps // config.evaluate_every)


def _seconds(steps: Iterable[None], device: torch.device, limit: float) -> Iterator[float]:
    """Yield the seconds of each step, including work queued on the device, for a limited time."""
    start = before = time.perf_counter()
    measured = 0.0
    for number, _ in enumerate(steps, 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        yield now - before
        measured += now - before if number > WARM_UP else 0.0
        is_enough = number >= WARM_UP + FEWEST and measured > limit
        if is_enough or now - start > PATIENCE:
            return
        before = time.perf_counter()
