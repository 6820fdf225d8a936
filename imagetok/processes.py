"""This process: its place in a distributed run, and the memory that it took."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import gather, parse_flag_from_env, reduce
from torch import Tensor, nn

from imagetok.distributed.rendezvous import METHOD
from imagetok.errors import ConfigError

_DAYS = timedelta(days=7)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def process_state(cpu: bool = False, *, patience: timedelta | None = _DAYS) -> PartialState:
    """Accelerate's state of this process; the first call waits for the others of a run.

    patience: how long one that has nothing left to do waits for the others; None is torch's own.

    Heeds ACCELERATE_USE_CPU (`accelerate launch --cpu`) as Accelerator does and PartialState alone
    does not: without it, every process launched on a machine without a GPU believes to be alone.
    """
    cpu = cpu or parse_flag_from_env("ACCELERATE_USE_CPU")
    limit = {} if patience is None else {"timeout": patience}
    return PartialState(cpu=cpu, init_method=METHOD, **limit)


def all_reduce(value: Tensor, how: Literal["sum", "mean", "max"]) -> Tensor:
    """The sum, the mean or the elementwise largest of every process's tensor; the same on all.

    value: of one shape and dtype everywhere; every process must call this (a collective). The
    result lies where `value` does; alone, a process gets `value` itself.
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


def all_gather(value: Tensor) -> Tensor:
    """Every process's tensor, joined along the first axis by rank; the same on all.

    value: (N, ...) of one shape and dtype everywhere, on this process's device (a collective).
    """
    if process_state().num_processes == 1:
        return value
    every = gather(value.contiguous())
    assert isinstance(every, Tensor)
    return every


def choose_device(name: torch.device | str | None = None) -> torch.device:
    """The device asked for, else this process's GPU, else the CPU.

    Raises ConfigError for one that cannot be used here.
    """
    state = process_state(cpu=str(name) == "cpu")
    if name is None:
        return torch.device(state.device or "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", 1)[0]
        raise ConfigError(f"device {name}: cannot be used here ({reason})") from None
    return device


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensor instead of giving it back.

    A step frees and takes tensors of megabytes all the time, and fresh pages cost up to ten times
    what writing to them does. It holds for the whole process, for blocks up to 32 MiB, with glibc.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and matrix products in float32 as it is stored.

    Not in TF32 (CUDA) or bfloat16 (CPU), which `torch.set_float32_matmul_precision` allows, with
    mantissas of 10 and 7 bits.
    """
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters and buffers are; the CPU where it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def peak_memory_mb() -> float:
    """The most resident memory that this process had so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB on Linux
