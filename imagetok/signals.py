"""Stopping safely after SIGINT, SIGTERM or SIGHUP."""

import signal
import threading
from types import FrameType, TracebackType

import torch

from imagetok.distributed.peers import check_peers
from imagetok.errors import StoppedError
from imagetok.processes import all_reduce, process_state

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask to stop."""


class StopRequest:
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into a request to stop.

    The work inside calls `check` or `check_here` where it can stop safely. A second SIGINT
    interrupts at once (KeyboardInterrupt). SIGHUP stays ignored if it is, as under `nohup`. Outside
    the main thread, where Python allows no signal handlers, signals keep their usual effect.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not set by Python, and cannot be restored.
            restored = signal.SIG_DFL if handler is None else handler
            signal.signal(number, restored)  # pyright: ignore[reportArgumentType]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    @property
    def received(self) -> int:
        """The signal that this process received; 0 for none."""
        return self._signal

    def signal_number(self) -> int:
        """Return the received signal, 0 for none; the same on every process (a collective).

        If processes received different signals, the highest number counts: SIGTERM (15) before
        SIGINT (2).
        """
        if process_state().num_processes == 1:
            return self._signal
        return int(all_reduce(torch.tensor([self._signal]), "max"))

    def check(self) -> None:
        """Raise StoppedError on every process if any received a signal (a collective)."""
        self.stop_by(self.signal_number())

    def check_here(self) -> None:
        """Raise StoppedError if this process received a signal.

        Raises ResourceError if another process has ended without finishing the shared work.
        """
        self.stop_by(self._signal, "; run the same command again to continue")
        check_peers()

    def stop_by(self, number: int, advice: str = "") -> None:
        """Raise StoppedError for a signal; 0 is none. advice: end of its message."""
        if number:
            raise StoppedError(f"stopped by {signal.Signals(number).name}{advice}", number)
