"""The order of training examples, which depends only on seed and step, so no state is saved.

The stream is a sequence of permutations of the dataset: step t uses its examples
[t * batch_size, (t + 1) * batch_size), across the borders of epochs.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import torch
from torch.utils.data import DataLoader, Sampler

from imagetok import seeding
from imagetok.data.loader_workers import worker_loader
from imagetok.errors import ConfigError, InputError
from imagetok.suggestions import counted


@runtime_checkable
class BatchedDataset(Protocol):
    """A map-style dataset that returns a whole batch, a NamedTuple of tensors, at once."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> Any: ...

    def identity(self) -> str:
        """Return a hash that changes when the examples change."""
        ...


@runtime_checkable
class EpochDataset(Protocol):
    """A dataset whose examples differ from epoch to epoch, as augmented images do."""

    def __len__(self) -> int: ...

    def read_at(self, indices: list[int], epochs: list[int]) -> Any:
        """Return the examples at `indices` as they are in `epochs`, one epoch each, as one batch.

        An example depends only on its index and epoch, whatever else is in the batch.
        """
        ...

    def identity(self) -> str:
        """Return a hash that changes when the examples change."""
        ...


class Examples(NamedTuple):
    """The examples of one micro-batch."""

    indices: list[int]
    """Indices into the dataset."""
    epochs: list[int]
    """The pass over the dataset that each of them belongs to, from 0."""


def check_batch_size(batch_size: int, accumulation: int, num_processes: int) -> None:
    """Raise ConfigError if a step's examples cannot be divided equally."""
    if batch_size % (accumulation * num_processes):
        raise ConfigError(
            f"train.batch_size: expected a multiple of {accumulation * num_processes} "
            f"({counted(num_processes, 'process')} x {counted(accumulation, 'micro-batch')}), "
            f"found {batch_size}"
        )


class MicroBatches(Sampler[Examples]):
    """The endless micro-batches of one process, from `start_step` on.

    Micro-batch m of rank r is the (m * num_processes + r)-th equal part of the step's examples, so
    all processes together read one global order. Raises ConfigError if batch_size is not a multiple
    of accumulation * num_processes, InputError for an empty dataset.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        num_processes: int = 1,
    ):
        if length == 0:
            raise InputError("expected training examples, found an empty training split")
        check_batch_size(batch_size, accumulation, num_processes)
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.accumulation = accumulation
        self.rank = rank
        self.num_processes = num_processes

    def __iter__(self) -> Iterator[Examples]:
        size = self.batch_size // (self.accumulation * self.num_processes)
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        step = self.start_step
        while True:
            for micro in range(self.accumulation):
                part = micro * self.num_processes + self.rank
                start = step * self.batch_size + part * size
                indices, epochs = [], []
                while len(indices) < size:
                    position = start + len(indices)
                    if position // self.length != epoch:
                        epoch = position // self.length
                        draw = seeding.generator(self.seed, "order", epoch)
                        order = torch.randperm(self.length, generator=draw)
                    offset = position % self.length
                    indices += order[offset : offset + size - len(indices)].tolist()
                    epochs += [epoch] * (len(indices) - len(epochs))
                yield Examples(indices, epochs)
            step += 1


@final
class _ReadExamples:
    """Reads the examples of a micro-batch from a dataset."""

    def __init__(self, dataset: BatchedDataset | EpochDataset):
        self.dataset = dataset
        # Looked up once: whether it has each method of an EpochDataset takes time to find out.
        self.has_epochs = isinstance(dataset, EpochDataset)

    def __call__(self, examples: Examples) -> Any:
        dataset: Any = self.dataset
        if self.has_epochs:
            return dataset.read_at(*examples)
        return dataset.__getitems__(examples.indices)


def batch_loader(
    dataset: BatchedDataset | EpochDataset,
    micro_batches: MicroBatches,
    workers: int,
    pin_memory: bool,
) -> DataLoader[Any]:
    """Return an endless loader of whole batches, whose workers hold no state.

    In place of a batch it yields InputError if an example cannot be read, and ResourceError if a
    worker has no shared memory for the batch. Logs a warning for more workers than CPUs.
    """
    return worker_loader(
        _ReadExamples(dataset),
        micro_batches,
        workers,
        option="train.workers",
        pin_memory=pin_memory,
    )
