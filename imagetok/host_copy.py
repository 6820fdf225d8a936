"""Copying results from a device to the CPU while the device goes on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar, final

import torch
from torch import Tensor

T = TypeVar("T")


@final
class HostCopy:
    """Tensors on their way to the CPU; `tensors` waits for these copies alone.

    From a GPU they go to page-locked memory. Tensors that are on the CPU already are not copied.
    """

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
        self._events = [_recorded(device) for device in devices]

    def tensors(self) -> list[Tensor]:
        """Return the tensors on the CPU, in order."""
        for event in self._events:
            event.synchronize()
        return self._tensors


def _recorded(device: torch.device) -> torch.cuda.Event:
    """Return an event that occurs when the device has done what it was given so far."""
    event = torch.cuda.Event(blocking=True)  # lets other threads have the CPU
    event.record(torch.cuda.current_stream(device))
    return event


class Started(Generic[T]):
    """Work that a device was given: copies of its results, and what belongs to them."""

    def __init__(self, results: Sequence[Tensor], about: T):
        self.copy = HostCopy(results)
        self.about = about


def one_behind(started: Iterable[Started[T]]) -> Iterator[tuple[list[Tensor], T]]:
    """Yield the results of each piece of work, in order, after the next one was started.

    So a device has always work to do while the CPU deals with results. If `started` raises an
    error, the results of what was started before are yielded first.
    """
    pieces = iter(started)
    waiting: Started[T] | None = None
    failure: Exception | None = None
    while failure is None:
        try:
            work = next(pieces, None)
        except Exception as error:
            work, failure = None, error
        if waiting is not None:
            yield waiting.copy.tensors(), waiting.about
        if work is None and failure is None:
            return
        waiting = work
    raise failure
