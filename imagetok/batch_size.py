"""How many images a device computes at once: as many as pay, and as many as fit."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from accelerate.utils import gather_object
from torch import Tensor

from imagetok.images import ImageContract
from imagetok.processes import process_state

logger = logging.getLogger("imagetok")
GAIN = 1.05
"""A batch of twice the size has to be this much faster, per image, to be worth its memory."""
_REPEATS = 3
_USUAL_PIXELS = 64 * 64


def images_at_once(usual: int, image: ImageContract) -> int:
    """Return how many images a network computes at once, so that large ones need no more memory.

    usual: the number for images of up to 64 x 64 pixels. It is halved until larger images have
    together no more pixels, at most until there is one. It depends on nothing else, neither on the
    network nor on the machine, so that results, which may depend on it by rounding, do not either.
    """
    size = usual
    while size > 1 and size * image.height * image.width > usual * _USUAL_PIXELS:
        size //= 2
    return size


def fastest_size(rate: Callable[[int], float], first: int, most: int) -> int:
    """Return a batch size: `first`, doubled for as long as that makes each image cheaper.

    rate: returns the images a second at a size, or raises torch.OutOfMemoryError, which ends the
    search. If not even `first` fits, it is halved until it does. most: the largest size to try.
    """
    size = min(first, most)
    best = _rate(rate, size)
    if best is None:
        while best is None:
            if size == 1:
                rate(1)  # raises again
            size = max(1, size // 2)
            best = _rate(rate, size)
        return size
    while 2 * size <= most:
        more = _rate(rate, 2 * size)
        if more is None or more < GAIN * best:
            break
        size, best = 2 * size, more
    return size


def _rate(rate: Callable[[int], float], size: int) -> float | None:
    try:
        return rate(size)
    except torch.OutOfMemoryError:
        pass
    _free_memory()
    return None


def timed_rate(compute: Callable[[int], object], device: torch.device) -> Callable[[int], float]:
    """Return the function from a size to the images a second of `compute(size)` on a GPU."""

    def rate(size: int) -> float:
        compute(size)  # the first call at a size chooses its kernels
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        for _ in range(_REPEATS):
            compute(size)
        torch.cuda.synchronize(device)
        return _REPEATS * size / (time.perf_counter() - begun)

    return rate


def chosen_size(
    what: str, usual: int, device: torch.device, compute: Callable[[int], object], most: int
) -> int:
    """Return the batch size for some work on a device, and log it; the same in every process.

    what: the work, for the log. usual: the size on a CPU, and the first one that is tried on a GPU.
    compute: does the work once for a number of images. most: no size above it is tried.
    """
    if device.type != "cuda":
        return usual
    size = fastest_size(timed_rate(compute, device), usual, max(usual, most))
    _free_memory()
    if process_state().num_processes > 1:
        size = min(gather_object([size]))
    logger.info("%s: %d images at once", what, size)
    return size


@final
class FittingBatches:
    """Computes batches at once, or in parts once the device has run out of memory."""

    def __init__(self, what: str, size: int):
        """what: the work, for messages. size: the most images to compute at once."""
        self.what = what
        self.size = size

    def compute(self, work: Callable[[slice], Sequence[Tensor]], count: int) -> list[Tensor]:
        """Return the results of `work` for `count` images, in order.

        work: returns tensors for a slice of the images. After torch.OutOfMemoryError the size is
        halved, for all later batches too; at a size of 1 it is raised.
        """
        while True:
            try:
                starts = range(0, max(count, 1), self.size)
                parts = [work(slice(s, min(s + self.size, count))) for s in starts]
                break
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
            self.size = -(-min(self.size, count) // 2)
            logger.warning(
                "%s: out of memory; from here on %d images at once, whose results may differ from "
                "the others' by rounding",
                *(self.what, self.size),
            )
            _free_memory()
        if len(parts) == 1:
            return list(parts[0])
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def _free_memory() -> None:
    """Return the memory that torch keeps for later tensors to a GPU."""
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        cuda.empty_cache()
