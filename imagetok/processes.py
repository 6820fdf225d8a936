"""The current process: collectives of a distributed run, devices, threads, memory."""

import atexit
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import chain
from typing import Literal, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather, parse_flag_from_env, reduce
from torch import Tensor, nn

from imagetok.distributed.rendezvous import METHOD
from imagetok.errors import ConfigError

M = TypeVar("M", bound=nn.Module)

_DAYS = timedelta(days=7)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def process_state(cpu: bool = False, *, patience: timedelta | None = _DAYS) -> PartialState:
    """Return Accelerate's state of this process; the first call waits for all others of the run.

    patience: timeout of collectives, for which a process that is done waits for the others; None is
    torch's default. ACCELERATE_USE_CPU (`accelerate launch --cpu`) is honoured, as by Accelerator
    but not by PartialState; otherwise processes on machines without a GPU would not find each
    other.
    """
    if not PartialState._shared_state:
        cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
        limit = {} if patience is None else {"timeout": patience}
        PartialState(cpu=cpu, init_method=METHOD, **limit)
    state = PartialState()
    if state.num_processes > 1:
        _leave_group_at_exit()
    return state


@cache
def _leave_group_at_exit() -> None:
    """Let the process group end while the interpreter still runs.

    Its threads may hold tensors of the last collectives. Were they released after the interpreter
    is gone, the process would end by SIGABRT (pytorch/pytorch#179291) although its work is done.
    """
    atexit.register(_leave_group)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    gc.collect()  # of what still refers to the group, such as a wrapped model


def all_reduce(value: Tensor, how: Literal["sum", "mean", "max"]) -> Tensor:
    """Return the elementwise sum, mean or maximum of a tensor over all processes (a collective).

    value: a tensor of the same shape and dtype on every process. The result is the same on all and
    on the device of `value`; a single process gets `value` itself.
    """
    state = process_state()
    if state.num_processes == 1:
        return value
    here = value.to(state.device)
    if how == "max":
        together = all_gather(here[None]).amax(dim=0)
    else:
        reduced = reduce(here, how)
        assert isinstance(reduced, Tensor)
        together = reduced
    return together.to(value.device)


def sum_together(values: Sequence[Tensor]) -> list[Tensor]:
    """Return the elementwise sum of each tensor over all processes (a collective for each dtype).

    values: tensors on this process's device, of the same shapes and dtypes on every process. A
    single process gets them back.
    """
    if process_state().num_processes == 1:
        return list(values)

    def total(flat: Tensor) -> Tensor:
        return all_reduce(flat, "sum")[None]

    parts = _together(values, total)
    return [part.view(value.shape) for part, value in zip(parts, values, strict=True)]


def gather_together(values: Sequence[Tensor]) -> list[Tensor]:
    """Concatenate each tensor with those of all processes, by rank (a collective for each dtype).

    values: tensors (N, ...) on this process's device, of the same shapes and dtypes on every
    process. A single process gets them back.
    """
    count = process_state().num_processes
    if count == 1:
        return list(values)

    def by_rank(flat: Tensor) -> Tensor:
        return all_gather(flat).view(count, -1)

    parts = _together(values, by_rank)
    return [
        part.reshape(count * len(value), *value.shape[1:])
        for part, value in zip(parts, values, strict=True)
    ]


def _together(values: Sequence[Tensor], exchange: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Exchange all tensors of a dtype as one buffer; return for each its columns of the result.

    exchange: a buffer (M,) -> (rows, M).
    """
    found = list(values)
    for dtype in dict.fromkeys(value.dtype for value in values):
        places = [i for i, value in enumerate(values) if value.dtype == dtype]
        flat = torch.cat([values[i].flatten() for i in places])
        columns = exchange(flat).split([values[i].numel() for i in places], dim=1)
        for i, part in zip(places, columns, strict=True):
            found[i] = part
    return found


def all_gather(value: Tensor) -> Tensor:
    """Concatenate the tensors of all processes along the first axis, by rank (a collective).

    value: (N, ...) of the same shape and dtype on every process, on its device.
    """
    if process_state().num_processes == 1:
        return value
    every = gather(value.contiguous())
    assert isinstance(every, Tensor)
    return every


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use; on macOS, of all."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def choose_device(name: torch.device | str | None = None) -> torch.device:
    """Return the named device, or by default this process's GPU, or else the CPU.

    Raises ConfigError for a device that cannot be used on this machine.
    """
    state = process_state(cpu=str(name) == "cpu")
    if name is None:
        return torch.device(state.device or "cpu")
    check_device(name)
    return torch.device(name)


def check_device(name: torch.device | str) -> None:
    """Raise ConfigError for a device that cannot be used on this machine."""
    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError, TypeError):  # with reasons of up to a page
        known = usable_devices()
        why = "" if len(known) > 1 else "; torch finds no GPU, or was installed without support"
        raise ConfigError(
            f"device {name}: cannot be used on this machine, which has {', '.join(known)}{why}; "
            "choose one of these, or leave the device out"
        ) from None


def usable_devices() -> list[str]:
    """Return the names of this machine's devices: `cpu`, and the GPUs that torch can use."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors instead of returning it to the OS.

    Every training step frees and allocates tensors of megabytes, and fresh pages cost up to ten
    times as much as writing to them. This affects the whole process, for blocks of up to 32 MiB,
    and only glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one CPU thread inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters and buffers; the CPU if it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def with_channels_last(module: M) -> M:
    """Bring the weights of 2D convolutions to torch's channels-last format, in place.

    `module.to(memory_format=...)` does the same, but fails for the weights of 3D convolutions.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module


def without_waiting(drawn: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, without waiting for a GPU.

    What is drawn on the CPU is the same on every rank, whatever its GPU. A copy from pageable
    memory waits until the GPU has done all earlier work; one from page-locked memory is queued like
    a kernel, and torch keeps that memory until then.
    """
    if device.type != "cuda":
        return drawn.to(device)
    return drawn.pin_memory().to(device, non_blocking=True)


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS reports bytes, Linux KiB.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
