"""Append-only JSON lines, one object a record, that can be cut back to a checkpoint."""

import io
import json
import math
import os
from pathlib import Path
from typing import Any

from imagetok.durable import check_held
from imagetok.errors import CheckpointError
from imagetok.files import open_regular


class JsonLines:
    """One writer of a `.jsonl` file."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; values that are not finite become null.

        Raises ResourceError where the run folder was removed or renamed.
        """
        check_held(self.path)
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in record.items()
        }
        self._file.write((json.dumps(clean) + "\n").encode())
        self._file.flush()

    def durable_size(self) -> int:
        """fsync, and the size in bytes up to here."""
        check_held(self.path)
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Forget everything after the first `size` bytes."""
        found = self.path.stat().st_size
        if found < size:
            raise CheckpointError(
                f"{self.path}: expected at least {size} bytes as the checkpoint recorded, found "
                f"{found}; the file was changed, restore it or train into a new --out"
            )
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records of a `.jsonl` file."""
    with io.TextIOWrapper(open_regular(path), "utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
