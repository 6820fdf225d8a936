"""Sampling whose steps are CUDA graphs: the CPU launches a step as a whole, not kernel by kernel.

A step reads its position from the device and writes to memory that stays. It is computed over the
whole length with later positions masked, so its logits equal those of the ordinary steppers but for
rounding. None of this has run on a GPU yet.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from functools import cache, partial

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from imagetok import cuda_graph
from prior.sampling_params import SamplingParams
from prior.stepper import NO_LABEL

logger = logging.getLogger("imagetok")
OPTION = "cuda_graphs (--cuda-graphs)"


class StaticStepper(ABC):
    """Computes logits at a position that is held on the device, by a fixed sequence of kernels."""

    @abstractmethod
    def pattern(self, step: int) -> Hashable:
        """Return which sequence of kernels a step runs; there are few."""

    @abstractmethod
    def next_logits(
        self, previous: Int64[Tensor, " B"], position: Int64[Tensor, "1"], step: int
    ) -> Float[Tensor, "B K"]:
        """Return the logits of the position, over the codes of its level.

        previous: the codes at the preceding position; any at the first one. position: on the
        device. step: a step of the same pattern, on the host; its number itself must not matter.
        """


StartStatic = Callable[[Int[Tensor, " B"]], StaticStepper]
"""Function that starts sampling images with these labels; see `Prior.prepare_static`."""


class GuidedStaticStepper(StaticStepper):
    """Guided logits, as `GuidedStepper` computes them."""

    def __init__(self, start: StartStatic, labels: Int[Tensor, " B"], guidance: float):
        self.stepper = start(torch.cat([labels, torch.full_like(labels, NO_LABEL)]))
        self.guidance = guidance

    def pattern(self, step: int) -> Hashable:
        return self.stepper.pattern(step)

    def next_logits(
        self, previous: Int64[Tensor, " B"], position: Int64[Tensor, "1"], step: int
    ) -> Float[Tensor, "B K"]:
        both = self.stepper.next_logits(previous.repeat(2), position, step)
        conditional, null = both.chunk(2)
        return null + self.guidance * (conditional - null)


class StaticDraw:
    """The memory of a micro-batch that is being sampled, and its step."""

    def __init__(
        self,
        stepper: StaticStepper,
        uniforms: Float64[Tensor, "B T"],
        given: Int64[Tensor, "B T"] | None,
        kept: list[bool],
        draw: Callable[[Tensor, Tensor], Tensor],
    ):
        """given, kept: codes, of which those at kept positions are not drawn. draw: see
        `sampling.draw_codes`."""
        device, (batch, length) = uniforms.device, uniforms.shape
        self.stepper, self.uniforms, self.given, self.draw = stepper, uniforms, given, draw
        self.kept = torch.tensor(kept, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.previous = torch.zeros(batch, dtype=torch.int64, device=device)
        self.codes = torch.zeros(batch, length, dtype=torch.int64, device=device)

    def step(self, step: int) -> Int64[Tensor, " B"]:
        """Draw the codes at the next position; return them."""
        logits = self.stepper.next_logits(self.previous, self.position, step)
        drawn = self.draw(logits, self._here(self.uniforms))
        if self.given is not None:
            is_kept = self.kept.index_select(0, self.position)
            drawn = torch.where(is_kept, self._here(self.given), drawn)
        self.codes.index_copy_(1, self.position, drawn[:, None])
        self.previous.copy_(drawn)
        self.position.add_(1)
        return self.previous

    def _here(self, values: Tensor) -> Tensor:
        return values.index_select(1, self.position)[:, 0]


@torch.no_grad()
def draw_captured(
    start: StartStatic,
    labels: Int[Tensor, " B"],
    uniforms: Float64[Tensor, "B T"],
    given: Int64[Tensor, "B T"] | None,
    kept: list[bool],
    params: SamplingParams,
    draw: Callable[[Tensor, Tensor, SamplingParams], Tensor],
) -> Int64[Tensor, "B T"]:
    """Draw the codes of a micro-batch.

    The first step of a pattern is computed as usual, the second is recorded, all others replay it.
    """
    guided = params.guidance != 1
    stepper = GuidedStaticStepper(start, labels, params.guidance) if guided else start(labels)
    memory = StaticDraw(stepper, uniforms, given, kept, lambda x, u: draw(x, u, params))
    graphs: dict[Hashable, cuda_graph.CudaGraph[Tensor]] = {}
    recorded: set[Hashable] = set()
    for step in range(uniforms.shape[1]):
        pattern, work = stepper.pattern(step), partial(memory.step, step)
        if pattern not in graphs:
            graphs[pattern] = cuda_graph.CudaGraph(uniforms.device, what=OPTION)
            graphs[pattern].warm_up(work)
            continue
        if pattern not in recorded:
            graphs[pattern].record(work)
            recorded.add(pattern)
        graphs[pattern].replay()
    return memory.codes


def check_device(device: torch.device) -> None:
    """Raise ConfigError for a device that records no graphs; warn that none has been seen."""
    cuda_graph.check_records(device, OPTION)
    _warn()


@cache
def _warn() -> None:
    logger.warning(
        "%s: no GPU was at hand when it was written, so it has never run on one; compare some "
        "samples with those without it",
        OPTION,
    )
