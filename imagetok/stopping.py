"""SIGINT and SIGTERM ask for a stop; the loop answers at the next safe place."""

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate.utils import reduce

from imagetok.errors import StoppedError
from imagetok.processes import process_state


class StopRequest:
    """Context manager that turns the first SIGINT or SIGTERM into a request.

    A second SIGINT interrupts at once (KeyboardInterrupt). Python allows handlers in the main
    thread only: in another one nothing is set, and signals do what they did before.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def signal_number(self) -> int:
        """The signal that asked, 0 if none; the same answer on every process (a collective)."""
        state = process_state()
        if state.num_processes == 1:
            return self._signal
        asked = torch.tensor([float(self._signal > 0), float(self._signal)], device=state.device)
        total = reduce(asked, "sum")
        assert isinstance(total, torch.Tensor)
        return round(float(total[1] / total[0])) if total[0] > 0 else 0

    def check(self) -> None:
        """Raise StoppedError on every process if any was asked to stop (a collective)."""
        self._raise(self.signal_number())

    def check_here(self) -> None:
        """Raise StoppedError if this process was asked to stop."""
        self._raise(self._signal, "; run the same command again to continue")

    def _raise(self, number: int, advice: str = "") -> None:
        if number:
            raise StoppedError(f"stopped by {signal.Signals(number).name}{advice}", number)
