"""A CUDA graph: work of a GPU that is recorded once, then launched as a whole.

Launching a graph runs the same kernels on the same memory again, so everything that differs from
one launch to the next is read from tensors that stay. Training steps and sampling steps can use it;
tests put a stand-in in its place that calls the function again. It has never run on a GPU.
"""

import gc
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import torch

from imagetok.errors import ConfigError

T = TypeVar("T")


class CudaGraph(Generic[T]):
    """A function's work on a GPU, recorded once and launched any number of times."""

    device_type: ClassVar[str] = "cuda"

    def __init__(self, device: torch.device, *generators: torch.Generator, what: str):
        """generators: those besides the global one from which the function draws. what: the option
        that asked for a graph, for messages."""
        self._what = what
        self._stream = torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)
        self._output: T | None = None

    def warm_up(self, function: Callable[[], T]) -> T:
        """Call the function without recording it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            output = function()
        current.wait_stream(self._stream)
        return output

    def record(self, function: Callable[[], T]) -> None:
        """Record the function's work, which is not done before `replay`.

        Raises ConfigError if it cannot be recorded.
        """
        gc.collect()  # nothing of earlier work is freed in between, which the GPU would refuse
        try:
            # Another thread may meanwhile allocate page-locked memory.
            mode = {"stream": self._stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self._graph, **mode):
                self._output = function()
        except RuntimeError as error:
            cause = error.__context__ or error  # a recording that failed cannot be ended, either
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = str(cause).partition("\n")[0]
            raise ConfigError(
                f"{self._what}: this work cannot be recorded ({reason}); leave it out"
            ) from error

    def replay(self) -> T:
        """Do the recorded work; return what the function returned, with new values."""
        self._graph.replay()
        assert self._output is not None
        return self._output


def check_records(device: torch.device, what: str) -> None:
    """Raise ConfigError for a device that records no graphs. what: the option that asked for it."""
    if device.type != CudaGraph.device_type:
        raise ConfigError(
            f"{what}: needs a CUDA GPU, which can record its work, found {device}; leave it out"
        )
