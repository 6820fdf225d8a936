"""Reading from a network within a stated time: a server may send a byte a minute, for ever."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

TOTAL = 60.0
"""Seconds that every request may take."""
SLOWEST = 10_000
"""Bytes a second, on average: for what comes as fast, a request may take longer."""
_PART = 1 << 20
T = TypeVar("T")


class TransferProgress:
    """How much a request has brought so far; after its time is over, it ends at the next part."""

    def __init__(self) -> None:
        self.received = 0
        self.is_over = False

    def read(self, read: Callable[[int], bytes], max_bytes: int) -> bytes:
        """Up to `max_bytes` of what `read(size)` gives, part after part."""
        parts: list[bytes] = []
        left = max_bytes
        while left and not self.is_over and (part := read(min(left, _PART))):
            parts.append(part)
            left -= len(part)
            self.received += len(part)
        return b"".join(parts)


def within_time_limit(get: Callable[[TransferProgress], T], num_bytes: int = 0) -> T:
    """What `get` gives or raises; TimeoutError when it takes too long.

    num_bytes: how much it will bring at most, where it does not tell its progress. It runs in
    another thread, which is left alone when it does not end.
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
