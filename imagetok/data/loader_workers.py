"""Reading batches in loader workers, processes that read the next batches beside the main one."""

import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from imagetok.data.base import ImageDataset
from imagetok.errors import InputError, ResourceError
from imagetok.plugins.loading import ensure_loaded, loaded_plugins
from imagetok.processes import usable_cpus
from imagetok.suggestions import counted

logger = logging.getLogger("imagetok")
MOST_BY_DEFAULT, MOST_PER_CPU = 16, 8
"""Workers of a process on a GPU unless asked otherwise, and the most that are started for a CPU."""
T = TypeVar("T")


def workers_for(dataset: ImageDataset, device: torch.device, asked: int | None = None) -> int:
    """Return the number of loader workers of a pass over a dataset.

    asked: the number that a user gave. By default a process on a GPU has one less than its share of
    the CPUs, at most MOST_BY_DEFAULT, for images that are decoded when they are read; on a CPU, and
    for images in memory, there are none.
    """
    if asked is not None:
        return asked
    if device.type == "cpu" or not dataset.is_decoded_when_read:
        return 0
    share = usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(0, min(MOST_BY_DEFAULT, share - 1))


def read_ahead(
    read: Callable[[Any], T], pieces: Sequence[Any], workers: int, device: torch.device
) -> Generator[T, None, None]:
    """Yield `read(piece)` of all pieces, in order; the workers read the next pieces meanwhile.

    read: returns tensors in tuples; sent to the workers, so it is a function or method of a module.
    workers: 0 reads in this process, when a piece is asked for. device: where the tensors go; for a
    GPU, workers' tensors are in page-locked memory.

    Raises what `read` raises of InputError and ResourceError, in its place; ResourceError if a
    worker was killed or cannot be started, or has no shared memory. Close it to end the workers.
    """
    if not workers:
        yield from map(read, pieces)
        return
    loader = worker_loader(
        read, pieces, workers, option="--workers", pin_memory=device.type == "cuda"
    )
    batches = begin(loader)
    try:
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    except RuntimeError as error:
        if not re.match(r"DataLoader (worker \(|timed out)", str(error)):
            raise
        raise ResourceError(
            f"a loader worker was killed, perhaps out of memory, or hangs ({error}); use fewer "
            "workers, or --workers 0"
        ) from None
    finally:
        # A traceback may keep the iterator alive until the process exits, and the exit would then
        # wait for the workers without end; torch has no public way to end them.
        getattr(batches, "_shutdown_workers", _nothing)()


def worker_loader(
    read: Callable[[Any], Any], pieces: Any, workers: int, *, option: str, pin_memory: bool
) -> "DataLoader[Any]":
    """Return a loader of `read(piece)` for each of the pieces, which an iterable yields.

    In place of a batch it yields InputError if `read` raises it, and ResourceError if a worker has
    no shared memory for the batch. option: name of the number of workers, for messages. Logs a
    warning for more workers than CPUs, and starts at most MOST_PER_CPU for each CPU, because each
    takes memory.
    """
    cpus = usable_cpus()
    started = min(workers, MOST_PER_CPU * cpus)
    if workers > cpus:
        logger.warning(
            "%s: expected at most %s, because this process may use %s, found %d; set %s%s",
            *(option, cpus, counted(cpus, "CPU"), workers, _setting(option, cpus)),
            "" if started == workers else f"; only {started} are started",
        )
    with _without_advice():
        return DataLoader(
            Refusals(read, option),
            batch_sampler=pieces,
            num_workers=started,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
            timeout=300 if started else 0,  # seconds to wait for a batch of a hanging worker
            # Its own generator, because the default draws a seed from torch's global generator.
            generator=torch.Generator().manual_seed(0),
        )


def begin(loader: "DataLoader[Any]") -> Iterator[Any]:
    """Return an iterator over the loader's batches; ResourceError if workers cannot be started."""
    if not loader.num_workers and not loader.pin_memory:  # the loader's own takes longer
        plain: Any = loader
        return map(plain.dataset.__getitems__, plain.batch_sampler)
    try:
        with _without_advice():
            return iter(loader)
    except OSError as error:  # the workers' semaphores need shared memory too
        refusals: Any = loader.dataset
        raise ResourceError(
            f"{refusals.option}: {counted(loader.num_workers, 'loader worker')} cannot be started "
            f"({error.strerror or error}): workers need processes, file descriptors and shared "
            f"memory, /dev/shm; {_remedy(refusals.option)}"
        ) from None


@final
class Refusals(Dataset[Any], Generic[T]):
    """Calls `read` for a batch; returns InputError and ResourceError instead of raising them.

    torch rebuilds an exception of a loader worker from the text of its traceback.
    """

    def __init__(self, read: Callable[[Any], T], option: str):
        self.read = read
        self.option = option

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent to a worker that is spawned: its plugins first, which the dataset may be of."""
        return _with_plugins, (_Plugins(loaded_plugins()), self.read, self.option)

    def __getitems__(self, piece: Any) -> Any:
        try:
            batch = self.read(piece)
            if get_worker_info() is not None:
                _share(batch, self.option)
            return batch
        except (InputError, ResourceError) as error:
            return error


class _Plugins:
    """Plugins that are loaded where this is unpickled."""

    def __init__(self, plugins: tuple[str, ...]):
        self.plugins = plugins

    def __reduce__(self) -> tuple[Any, ...]:
        return ensure_loaded, (self.plugins,)


def _with_plugins(plugins: None, read: Callable[[Any], Any], option: str) -> "Refusals[Any]":
    del plugins  # loaded before the dataset was unpickled
    return Refusals(read, option)


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, which may be in nested tuples, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, tuple):
        for part in batch:
            yield from tensors_of(part)


def _share(batch: Any, option: str) -> None:
    """Move a batch's tensors to shared memory in place; ResourceError if there is no room.

    The loader itself would do it in a thread of the worker, whose error would be lost.
    """
    for tensor in tensors_of(batch):
        try:
            tensor.share_memory_()
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ResourceError(
                f"{option}: no room for a batch in shared memory, /dev/shm ({reason}); "
                f"{_remedy(option)}"
            ) from None


def _remedy(option: str) -> str:
    return (
        f"set {_setting(option, 0)}, which needs no shared memory, or provide more of it (for a "
        "container: --shm-size=1g)"
    )


def _setting(option: str, value: int) -> str:
    return f"{option} {value}" if option.startswith("--") else f"{option}={value}"


def _nothing() -> None:
    return


def _as_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Ignore Ctrl-C in workers, because the main process decides when to stop."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Hide torch's warning about many workers, in whose place `worker_loader` logs one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield
