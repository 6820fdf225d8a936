"""A cache of image headers on this machine, by path, size and time of the file."""

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from imagetok.caches import header_cache
from imagetok.data.image_header import ImageHeader

_FEWEST = 1000  # fewer files are read as fast as the cache
_TABLE = """create table if not exists headers (
    name text primary key, file_size int, modified int,
    width int, height int, mode text, format text, num_bytes int)"""


class _Stamp(NamedTuple):
    """Size of a file in bytes, and its time of modification in nanoseconds."""

    size: int
    modified: int


class HeaderCache:
    """Headers of files that have not changed since; use it as a context manager.

    Threads may share it. It is never needed: where it cannot be read or written, it is empty.
    """

    def __init__(self, count: int, path: Path | None = None):
        """count: number of files to look at, few of which need no cache. path: of the file."""
        self._path = path or header_cache()
        self._is_used = count >= _FEWEST
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._new: list[tuple[object, ...]] = []

    def __enter__(self) -> "HeaderCache":
        if self._is_used:
            with suppress(sqlite3.Error, OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                found = sqlite3.connect(self._path, timeout=1, check_same_thread=False)
                found.execute(_TABLE)
                self._connection = found
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is None:
            return
        with suppress(sqlite3.Error), self._connection:
            marks = ",".join("?" * (len(_Stamp._fields) + len(ImageHeader._fields) + 1))
            self._connection.executemany(
                f"insert or replace into headers values ({marks})", self._new
            )
        self._connection.close()

    def get(self, name: str, file: Path) -> ImageHeader | None:
        """Return the header of the image `name` in a file; None if unknown or changed since."""
        stamp = _stamp(file) if self._connection is not None else None
        if stamp is None or self._connection is None:
            return None
        with self._lock, suppress(sqlite3.Error, UnicodeEncodeError):
            row = self._connection.execute(
                f"select {', '.join(ImageHeader._fields)} from headers "
                "where name = ? and file_size = ? and modified = ?",
                (name, *stamp),
            ).fetchone()
            return _header(row)
        return None

    def put(self, name: str, file: Path, header: ImageHeader) -> None:
        """Remember the header of the image `name` in a file."""
        stamp = _stamp(file) if self._connection is not None else None
        if stamp is not None and _is_text(name):
            self._new.append((name, *stamp, *header))


def _is_text(name: str) -> bool:
    """Return whether a name is text; file names of other bytes are no key of the cache."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _header(row: tuple[Any, ...] | None) -> ImageHeader | None:
    """Return the header in a row; None without one, and for values that no header has."""
    kinds = ImageHeader.__annotations__.values()
    if row is None or not all(isinstance(v, kind) for v, kind in zip(row, kinds, strict=True)):
        return None
    return ImageHeader(*row)


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = os.stat(file)  # noqa: PTH116
    except OSError:
        return None
    return _Stamp(found.st_size, found.st_mtime_ns)
