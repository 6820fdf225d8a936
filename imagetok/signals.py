"""SIGINT, SIGTERM and SIGHUP ask for a stop; the loop answers at the next safe place."""

import signal
import threading
from types import FrameType, TracebackType

import torch

from imagetok.distributed.peers import check_peers
from imagetok.errors import StoppedError
from imagetok.processes import all_reduce, process_state


class StopRequest:
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into a request.

    A second SIGINT interrupts at once (KeyboardInterrupt). SIGHUP, of a terminal that is closed, is
    left alone where it is ignored, as `nohup` does. Outside the main thread, where Python
    allows no signal handlers, signals keep their meaning and nothing is requested.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
            # None: it was set by something other than Python, and cannot be given back.
            restored = signal.SIG_DFL if handler is None else handler
            signal.signal(number, restored)  # pyright: ignore[reportArgumentType]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def signal_number(self) -> int:
        """The signal that asked, 0 if none; the same answer on every process (a collective).

        Where processes were sent different signals, the one with the highest number: SIGTERM (15)
        rather than SIGINT (2).
        """
        if process_state().num_processes == 1:
            return self._signal
        return int(all_reduce(torch.tensor([self._signal]), "max"))

    def check(self) -> None:
        """Raise StoppedError on every process if any was asked to stop (a collective)."""
        self._raise(self.signal_number())

    def check_here(self) -> None:
        """Raise StoppedError if this process was asked to stop.

        ResourceError if another one, which shares the work, has ended without finishing it.
        """
        self._raise(self._signal, "; run the same command again to continue")
        check_peers()

    def _raise(self, number: int, advice: str = "") -> None:
        if number:
            raise StoppedError(f"stopped by {signal.Signals(number).name}{advice}", number)
