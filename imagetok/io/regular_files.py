"""Opening files safely: only regular files, with limits on their size.

Reading a pipe could wait without end, and a device such as /dev/zero would fill the memory.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from imagetok.errors import InputError

MAX_BYTES = 64 << 20
"""Default limit for a small file that is read as a whole."""
MAX_HEADER_BYTES = 4 << 20
"""Limit for the header of a safetensors file; enough for tens of thousands of tensors."""


class FileError(InputError, OSError):
    """A file that is not regular or too large; `strerror` is the reason without the path."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.strerror = reason


def open_regular(path: Path | str) -> IO[bytes]:
    """Open a file for reading; raises OSError like `open`, FileError for a pipe or a device."""
    # Non-blocking, so that opening a named pipe does not wait; it is refused below.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise FileError(path, "expected a regular file, found a pipe or a device")
    try:
        return os.fdopen(descriptor, "rb")
    except IsADirectoryError:
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None


def read_regular(path: Path | str, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a small file; raises FileError, before reading, if it has more than `max_bytes`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FileError(
                path, f"too large: expected at most {max_bytes:,} bytes, found {size:,}"
            )
        return file.read(size)


def check_safetensors(path: Path | str) -> None:
    """Raise FileError for a safetensors file with a header larger than MAX_HEADER_BYTES.

    A file that ends within its header is accepted here, because its reader refuses it unread.
    """
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        rest = os.fstat(file.fileno()).st_size - 8
    if MAX_HEADER_BYTES < size <= rest:
        raise FileError(
            path, f"expected a header of at most {MAX_HEADER_BYTES:,} bytes, found {size:,}"
        )
