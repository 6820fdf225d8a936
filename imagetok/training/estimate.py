"""Estimating the time and memory of a run from a few steps that are taken and thrown away."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

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
LARGEST = 2 * 2**30
"""Bytes of values stored for the backward pass that a measured step on a CPU has at most, unless a
single image has more."""
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
    """Peak resident memory of this process in MiB, up to the end of the measured steps, or what it
    would be with steps of all images."""
    peak_gpu_memory_mb: float | None = None
    """Peak memory of tensors on the GPU in MiB; None on a CPU."""
    refusal: ImagetokError | None = None
    """What the run would be refused with, because images, codes or the tokenizer are missing or
    damaged. Steps were then measured on noise, and neither reading nor evaluations are counted.
    None if it can start."""
    on_gpu: Mapping[str, str] = field(default_factory=dict)
    """Time of a run like this on a GPU where it was measured; see `gpu_times.times_on_gpu`."""
    measured_images: int | None = None
    """Images of each measured step if a whole one would take too much memory to be tried on a CPU;
    times and memory are then proportional to the images. None: whole steps were measured."""
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
        peak = "the peak of the measured steps"
        if self.measured_images is not None:
            few = counted(self.measured_images, "image")
            how = f"in proportion to steps of {few}, {how}"
            peak = f"for all images of a step; a whole step was not tried, only {few}"
        gpu = self.peak_gpu_memory_mb
        return {
            "a step": f"{duration_text(self.seconds_per_step)}, {how}",
            "time, about": f"{duration_text(self.seconds)}{what}",
            "memory, about": f"{self.peak_memory_mb:,.0f} MiB, {peak}",
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
    On a CPU, if the values stored for the backward pass would take more than LARGEST bytes, steps
    of fewer images are measured, and time and memory are taken in proportion to the images.
    Raises what a step of the run raises, such as InputError for an image that cannot be read.
    """
    assert job.facts is not None
    device = accelerator.device
    measured, missing_mb = _measured(job, config, accelerator, seed)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with closing(rehearse(job, measured, accelerator=accelerator, seed=seed)) as steps:
        taken = list(islice(_seconds(steps, device, limit), WARM_UP + MOST))
    image = statistics.median(taken[WARM_UP:] or taken) / measured.batch_size
    step = image * config.batch_size
    evaluations = evaluations_of(config)
    evaluated = evaluations * (job.facts.held_out or 0)
    return RunEstimate(
        job.facts,
        str(device),
        evaluations,
        step,
        config.steps * step + evaluated * image * EVALUATION_SHARE,
        peak_memory_mb() + missing_mb,
        torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        refusal,
        measured_images=None if measured is config else measured.batch_size,
    )


def _measured(
    job: Job, config: TrainConfig, accelerator: Accelerator, seed: int
) -> tuple[TrainConfig, float]:
    """Return the config of the steps to measure, and the memory in MiB that they take too little.

    It is the config of the run, unless it is a process on a CPU whose steps are too large to try.
    """
    whole = config.batch_size // config.accumulation
    if accelerator.device.type != "cpu" or accelerator.num_processes > 1 or whole == 1:
        return config, 0.0
    stored = _stored_bytes(job, _with_images(config, 1), accelerator, seed)
    images = max(1, int(LARGEST / max(1, stored)))
    if images >= whole:
        return config, 0.0
    return _with_images(config, images), (whole - images) * stored / 2**20


def _with_images(config: TrainConfig, images: int) -> TrainConfig:
    """Return the config with steps of a number of images, taken at once."""
    return config.model_copy(update={"batch_size": images, "accumulation": 1})


def _stored_bytes(job: Job, config: TrainConfig, accelerator: Accelerator, seed: int) -> int:
    """Return the bytes of the values that a step stores for its backward pass, without weights."""
    networks = [job.model, *(() if job.adversary is None else (job.adversary[1],))]
    weights = {
        tensor.untyped_storage().data_ptr()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    stored: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    eager = config.model_copy(update={"compile": False, "workers": 0})
    with (
        closing(rehearse(job, eager, accelerator=accelerator, seed=seed)) as steps,
        saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        next(steps)
    return sum(stored.values())


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
