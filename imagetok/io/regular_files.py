"""Opening files with suspicion: regular ones only, and no larger than they can be.

A pipe would be waited for without end, and a device such as /dev/zero fill the memory.
"""

import errno
import os
import stat
from pathlib import Path
from typing import IO

from imagetok.errors import InputError

MAX_BYTES = 64 << 20
"""Of a small file that is read whole."""
MAX_HEADER_BYTES = 4 << 20
"""Of a safetensors file; tens of thousands of tensors have place in it."""


class FileError(InputError, OSError):
    """A file that is not read: it is none, or too large. `strerror` says so without the path."""

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.strerror = reason


def open_regular(path: Path | str) -> IO[bytes]:
    """Open a file for reading; OSError as `open` raises it, FileError for a pipe or a device."""
    # Non-blocking, so that a named pipe is refused below instead of waited for.
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
    """The bytes of a small file; FileError, before anything is read, where there are more."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise FileError(
                path, f"too large: expected at most {max_bytes:,} bytes, found {size:,}"
            )
        return file.read(size)


def check_safetensors(path: Path | str) -> None:
    """FileError for a header so large that reading it would take the memory of a model.

    A file that ends before its header does is left to its reader, which reads nothing of it.
    """
    with open_regular(path) as file:
        size = int.from_bytes(file.read(8), "little")
        rest = os.fstat(file.fileno()).st_size - 8
    if MAX_HEADER_BYTES < size <= rest:
        raise FileError(
            path, f"expected a header of at most {MAX_HEADER_BYTES:,} bytes, found {size:,}"
        )
