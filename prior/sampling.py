"""Sampling codes from any prior: per-image seeds, fixed padded micro-batches, inverse CDF.

Sample j depends only on the seed and j, not on the samples drawn with it: its uniforms are seeded
by (seed, j), it always has the same position in a micro-batch of fixed size (MICRO_BATCH, on a GPU
GPU_MICRO_BATCH or what a folder of samples records), and a micro-batch runs on one intra-op thread.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok import seeding
from imagetok.batch_size import chosen_size
from imagetok.errors import ConfigError, InputError
from imagetok.precision import full_float32
from prior.captured_sampling import StartStatic, draw_captured
from prior.guidance import GuidedStepper
from prior.sampling_params import SamplingParams
from prior.sequence import Codes, flatten_codes, kept_positions, unflatten_codes
from prior.stepper import NO_LABEL, Stepper

MICRO_BATCH, GPU_MICRO_BATCH = 16, 64
"""Images per micro-batch; the time of a step on a GPU hardly depends on it."""
MOST_AT_ONCE = 1024
_TRIED = 16
"""Positions of which the time is taken."""


class GivenCodes(NamedTuple):
    """Given codes of images to complete: sample j continues row j % N of `sequence`."""

    sequence: Int[Tensor, "N T"]
    kept: list[bool]
    """Whether the code at each position is kept."""


@dataclass(frozen=True)
class SampleSpec:
    """Everything that sample j depends on besides the prior and j."""

    labels: list[int]
    """Sample j has the label labels[j % len(labels)]."""
    params: SamplingParams
    given: GivenCodes | None = None


Grids = tuple[tuple[int, int], ...]
StartLabels = Callable[[Int[Tensor, " B"]], Stepper]
"""Function that starts sampling images with these labels; see `Prior.prepare`."""


def given_codes(
    codes: Codes | None, keep_rows: int | None, grids: Grids, device: torch.device
) -> GivenCodes | None:
    """Check and convert the codes of images to complete; see `Prior.sample`."""
    if codes is None or keep_rows is None:
        if codes is not None or keep_rows is not None:
            raise ConfigError("given and keep_rows: pass both, or neither")
        return None
    if len(codes[0]) == 0:
        raise InputError("given: expected the codes of at least one image, found none")
    sequence = flatten_codes(codes).long().to(device)
    return GivenCodes(sequence, kept_positions(grids, keep_rows))


@full_float32()
def sample_codes(
    prepare: Callable[[], StartLabels] | Callable[[], StartStatic],
    grids: Grids,
    device: torch.device,
    spec: SampleSpec,
    images: range,
    *,
    micro_batch: int | None = None,
    cuda_graphs: bool = False,
) -> Codes:
    """Sample the codes of images of a seed; see `Prior.sample`.

    prepare: `Prior.prepare`, with cuda_graphs `Prior.prepare_static`. micro_batch: images per
    micro-batch; None is `micro_batch_on` the device.
    """
    first, n = images.start, images.stop - images.start
    if n < 0 or first < 0:
        raise ConfigError(f"expected a number of images >= 0, found n={n}, first={first}")
    size, length = micro_batch or micro_batch_on(device), sum(h * w for h, w in grids)
    micro_batches = [
        range(begin, begin + size) for begin in range(first - first % size, first + n, size)
    ]
    start: Any = prepare()
    draw = _draw_captured if cuda_graphs else _draw
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(
            pool.map(lambda batch: draw(start, length, device, batch, spec), micro_batches)
        )
    drawn = torch.cat([torch.zeros(0, length, dtype=torch.int64, device=device), *parts])
    offset = first % size
    return unflatten_codes(drawn[offset : offset + n], grids)


def micro_batch_on(device: torch.device) -> int:
    """Return the number of images per micro-batch on a device."""
    return MICRO_BATCH if device.type == "cpu" else GPU_MICRO_BATCH


@full_float32()
def fast_micro_batch(start: StartLabels, device: torch.device, images: int, length: int) -> int:
    """Return the images per micro-batch at which a GPU samples fast; on a CPU the usual number.

    start: as `Prior.prepare` returns it. images: how many are to be sampled. length: positions.
    """

    def compute(size: int) -> None:
        steps, previous = start(torch.full((size,), NO_LABEL, device=device)), None
        with torch.no_grad():
            for _ in range(min(_TRIED, length)):
                previous = steps.next_logits(previous).argmax(dim=1)

    usual = micro_batch_on(device)
    return chosen_size("sampling", usual, device, compute, min(images, MOST_AT_ONCE))


def _draw(
    start: StartLabels, length: int, device: torch.device, images: range, spec: SampleSpec
) -> Int[Tensor, "B T"]:
    labels, given, params = spec.labels, spec.given, spec.params
    uniforms = _uniforms(images, params.seed, length).to(device if device.type != "mps" else "cpu")
    wanted = torch.tensor([labels[j % len(labels)] for j in images], device=device)
    rows = [j % len(given.sequence) for j in images] if given else []
    drawn: list[Tensor] = []
    with torch.no_grad():
        guidance, previous = params.guidance, None
        steps = start(wanted) if guidance == 1 else GuidedStepper(start, wanted, guidance)
        for t in range(length):
            logits = steps.next_logits(previous)  # also for a kept code, to fill the caches
            if given is not None and given.kept[t]:
                previous = given.sequence[rows, t]
            else:
                previous = draw_codes(logits, uniforms[:, t], params)
            drawn.append(previous)
    return torch.stack(drawn, dim=1)


def _draw_captured(
    start: StartStatic, length: int, device: torch.device, images: range, spec: SampleSpec
) -> Int[Tensor, "B T"]:
    labels, given = spec.labels, spec.given
    wanted = torch.tensor([labels[j % len(labels)] for j in images], device=device)
    uniforms = _uniforms(images, spec.params.seed, length).to(device)
    rows = [j % len(given.sequence) for j in images] if given else []
    sequence = given.sequence[rows] if given else None
    kept = given.kept if given else []
    return draw_captured(start, wanted, uniforms, sequence, kept, spec.params, draw_codes)


def _uniforms(images: range, seed: int, length: int) -> Float[Tensor, "B T"]:
    """Return the uniforms in [0, 1) of each image and position, float64."""
    draws = [
        torch.rand(length, generator=seeding.generator(seed, "sample", j), dtype=torch.float64)
        for j in images
    ]
    return torch.stack(draws)


def draw_codes(
    logits: Float[Tensor, "B K"], uniforms: Float[Tensor, " B"], params: SamplingParams
) -> Int[Tensor, " B"]:
    """Draw one code per row by inverting the cumulative distribution function in float64.

    uniforms: in [0, 1), one per row. Temperature is applied first, then top-k, then top-p to the
    remaining codes.
    """
    device = logits.device
    if device.type == "mps":  # MPS does not support float64
        logits, uniforms = logits.cpu(), uniforms.cpu()
    logits = logits.double()
    if params.greedy:
        return logits.argmax(dim=1).to(device)
    # Relative to the largest logit: dividing the logits by a tiny temperature would overflow.
    below = logits - logits.amax(dim=1, keepdim=True)
    probabilities = (below / params.temperature).softmax(dim=1)
    if params.top_k is not None and params.top_k < logits.shape[1]:
        kept = probabilities.topk(params.top_k, dim=1).indices
        probabilities = torch.zeros_like(probabilities).scatter(
            1, kept, probabilities.gather(1, kept)
        )
    if params.top_p is not None and params.top_p < 1:
        sorted_p, order = probabilities.sort(dim=1, descending=True, stable=True)
        before = sorted_p.cumsum(dim=1) - sorted_p
        dropped = before >= params.top_p * sorted_p.sum(dim=1, keepdim=True)
        probabilities = probabilities.scatter(1, order, sorted_p.masked_fill(dropped, 0))
    cumulative = probabilities.cumsum(dim=1)
    targets = uniforms.double()[:, None] * cumulative[:, -1:]
    codes = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return codes.clamp_max(logits.shape[1] - 1).to(device)
