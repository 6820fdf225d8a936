"""Time limits for network requests; a server could otherwise send a byte per minute without end."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

TOTAL = 60.0
"""Seconds that every request may take."""
SLOWEST = 10_000
"""Least average rate in bytes per second at which a request may take longer than TOTAL."""
_PART = 1 << 20
T = TypeVar("T")


class TransferProgress:
    """Number of bytes that a request received, and whether its time is over."""

    def __init__(self) -> None:
        self.received = 0
        self.is_over = False

    def read(self, read: Callable[[int], bytes], max_bytes: int) -> bytes:
        """Read up to `max_bytes` with `read(size)` in parts; stops when the time is over."""
        parts: list[bytes] = []
        left = max_bytes
        while left and not self.is_over and (part := read(min(left, _PART))):
            parts.append(part)
            left -= len(part)
            self.received += len(part)
        return b"".join(parts)


def within_time_limit(get: Callable[[TransferProgress], T], num_bytes: int = 0) -> T:
    """Return or raise what `get` does; raises TimeoutError if it takes too long.

    num_bytes: upper bound of the bytes received, for a `get` that does not report its progress.
    `get` runs in another thread, which is abandoned if it does not end.
    """
    progress, results = TransferProgress(), queue.SimpleQueue[tuple[Any, BaseException | None]]()

    def run() -> None:
        try:
            results.put((get(progress), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    start = time.monotonic()
    while True:
        taken = time.monotonic() - start
        left = TOTAL + max(progress.received, num_bytes) / SLOWEST - taken
        if left <= 0:
            progress.is_over = True
            raise TimeoutError(f"given up after {taken:.0f} s and {progress.received:,} bytes")
        try:
            value, error = results.get(timeout=left)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return value
