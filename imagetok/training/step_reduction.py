"""What the processes of a run exchange at each optimizer step besides gradients."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from imagetok.processes import process_state, without_waiting
from imagetok.signals import SIGNALS, StopRequest
from imagetok.training.batch_norm import running_statistics
from imagetok.training.step_output import StepOutput, combine_outputs

LAG = 2
"""Steps by which a GPU may be behind the host before the host waits for news of signals."""


class StepReduction:
    """Combines a step's outputs, running statistics and signals over processes, in one collective.

    Each process normalises its own part of a batch with the statistics of that part; averaging the
    running statistics keeps them equal, so that all processes evaluate, save and resume the same
    model. Signals travel in the same buffer, because a collective of their own would make each step
    wait for the device.
    """

    def __init__(self, model: nn.Module, stop: StopRequest, device: torch.device):
        self._statistics = running_statistics(model)
        self._stop = stop
        self._device = device
        self._is_alone = process_state().num_processes == 1
        self._heard: deque[Callable[[], list[float]]] = deque()

    def combine(self, outputs: list[StepOutput]) -> StepOutput:
        """Combine the outputs of a step's micro-batches and processes (a collective)."""
        if self._is_alone:
            return combine_outputs(outputs)
        received = torch.tensor([float(n == self._stop.received) for n in SIGNALS])
        counts = without_waiting(received, self._device)
        total = combine_outputs(outputs, [*self._statistics, counts])
        for statistic in self._statistics:
            statistic.div_(process_state().num_processes)
        self._heard.append(_reader(counts))
        return total

    def check_stop(self) -> None:
        """Raise StoppedError, on every process at the same step, if any received a signal."""
        if self._is_alone:
            self._stop.check()
        elif len(self._heard) > (LAG if self._device.type == "cuda" else 0):
            counts = self._heard.popleft()()
            found = [n for n, count in zip(SIGNALS, counts, strict=True) if count]
            self._stop.stop_by(max(found, default=0))


def _reader(values: Tensor) -> Callable[[], list[float]]:
    """Start copying values to the host; return a function that waits for the copy and reads it."""
    if values.device.type != "cuda":
        return values.tolist
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def read() -> list[float]:
        done.synchronize()
        return copy.tolist()

    return read
