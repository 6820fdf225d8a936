"""How an evaluation reads and batches images, which affects its speed and its memory."""

from collections.abc import Callable
from typing import final

import torch

from imagetok.batch_size import FittingBatches, chosen_size
from imagetok.data import ImageDataset
from imagetok.data.loader_workers import workers_for

MOST_AT_ONCE = 1024


@final
class Pace:
    """Numbers of loader workers and of images at once, as asked for or as they suit a device."""

    def __init__(self, workers: int | None = None, batch_size: int | None = None):
        """workers: see `workers_for`. batch_size: of feature networks; None finds a good one."""
        self._workers = workers
        self._batch_size = batch_size
        self.batch_sizes: dict[str, int] = {}
        """Images at once by the work, where they are not the usual ones of a CPU."""

    def workers(self, dataset: ImageDataset, device: torch.device) -> int:
        """Return the number of loader workers for a pass over a dataset."""
        return workers_for(dataset, device, self._workers)

    def batches(
        self, what: str, usual: int, device: torch.device, compute: Callable[[int], object],
        count: int,
    ) -> FittingBatches:  # fmt: skip
        """Return the batches for some work on `count` images; see `chosen_size`."""
        size = self._batch_size or self.batch_sizes.get(what)
        if size is None:
            size = chosen_size(what, usual, device, compute, min(count, MOST_AT_ONCE))
        if size != usual:
            self.batch_sizes[what] = size
        return FittingBatches(what, size)
