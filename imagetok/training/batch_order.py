"""The order of training examples, which depends only on seed and step, so no state is saved.

The stream is a sequence of permutations of the dataset: step t uses its examples
[t * batch_size, (t + 1) * batch_size), across the borders of epochs.
"""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from imagetok import seeding
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.plugins.loading import ensure_loaded, loaded_plugins
from imagetok.processes import usable_cpus
from imagetok.suggestions import counted

logger = logging.getLogger("imagetok")
_REMEDY = (
    "set train.workers=0, which needs no shared memory, or provide more of it (for a container: "
    "--shm-size=1g)"
)


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


class _Plugins:
    """Plugins that are loaded where this is unpickled."""

    def __init__(self, plugins: tuple[str, ...]):
        self.plugins = plugins

    def __reduce__(self) -> tuple[Any, ...]:
        return ensure_loaded, (self.plugins,)


def _with_plugins(plugins: None, dataset: BatchedDataset | EpochDataset) -> "_Refusals":
    del plugins  # loaded before the dataset was unpickled
    return _Refusals(dataset)


class _Refusals(Dataset[Any]):
    """The same dataset, which returns InputError and ResourceError instead of raising them.

    torch rebuilds an exception of a loader worker from the text of its traceback.
    """

    def __init__(self, dataset: BatchedDataset | EpochDataset):
        self.dataset = dataset
        self._read: Callable[[Examples], Any]
        if isinstance(dataset, EpochDataset):  # looks for each of its methods, which takes time
            self._read = lambda examples: dataset.read_at(*examples)
        else:
            self._read = lambda examples: dataset.__getitems__(examples.indices)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker that is spawned: its plugins first, which the dataset may be of."""
        return _with_plugins, (_Plugins(loaded_plugins()), self.dataset)

    def __getitems__(self, examples: Examples) -> Any:
        try:
            batch = self._read(examples)
            if get_worker_info() is not None:
                _share(batch)
            return batch
        except (InputError, ResourceError) as error:
            return error


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, which may be in nested tuples, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for part in batch:
            yield from tensors_of(part)


def _share(batch: Any) -> None:
    """Move a batch's tensors to shared memory in place; ResourceError if there is no room.

    The loader itself would do it in a thread of the worker, whose error would be lost.
    """
    for tensor in tensors_of(batch):
        try:
            tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ResourceError(
                f"train.workers: no room for a batch in shared memory, /dev/shm ({reason}); "
                f"{_REMEDY}"
            ) from None


def _as_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ignore Ctrl-C in workers, because the main process decides when to stop."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batch_loader(
    dataset: BatchedDataset | EpochDataset,
    micro_batches: MicroBatches,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """Return an endless loader of whole batches, whose workers hold no state.

    In place of a batch it yields InputError if an example cannot be read, and ResourceError if a
    worker has no shared memory for the batch. Logs a warning for more workers than CPUs.
    """
    cpus = usable_cpus()
    if workers > cpus:
        logger.warning(
            "train.workers: expected no more processes than CPUs that they may use, %d, found %d; "
            "more are slower, set train.workers=%d",
            *(cpus, workers, cpus),
        )
    with _without_advice():
        return DataLoader(
            _Refusals(dataset),
            batch_sampler=micro_batches,  # pyright: ignore[reportArgumentType]  # no lists, but Examples
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
            timeout=300 if workers else 0,  # seconds to wait for a batch of a hanging worker
            # Its own generator, because the default draws a seed from torch's global generator.
            generator=torch.Generator().manual_seed(0),
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide torch's warning about many workers, in whose place `batch_loader` logs one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def begin(loader: DataLoader) -> Iterator[Any]:
    """Return an iterator over the loader's batches; ResourceError if workers cannot be started."""
    if not loader.num_workers and not loader.pin_memory:  # the loader's own takes longer
        plain: Any = loader
        return map(plain.dataset.__getitems__, plain.batch_sampler)
    try:
        with _without_advice():
            return iter(loader)
    except OSError as error:  # the workers' semaphores need shared memory too
        raise ResourceError(
            f"train.workers: {counted(loader.num_workers, 'loader worker')} cannot be started "
            f"({error.strerror or error}): workers need processes, file descriptors and shared "
            f"memory, /dev/shm; {_REMEDY}"
        ) from None
