"""Append-only logs in JSON Lines, which can be truncated to the state of a checkpoint."""

import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from imagetok.durable import check_held
from imagetok.errors import CheckpointError, InputError
from imagetok.io.json_files import parse_json
from imagetok.io.regular_files import open_regular

MANY = 4096
"""Number of records per split for plots of a log; see `read_thinned`."""
BLOCK, MAX_LINE = 1 << 18, 1 << 20
MAX_STEP = 2**53
_LARGEST = sys.float_info.max


class JsonLines:
    """Writer of a `.jsonl` file."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; values that are not finite become null.

        Raises ResourceError if the run folder was removed or renamed.
        """
        check_held(self.path)
        clean = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in record.items()
        }
        self._file.write((json.dumps(clean) + "\n").encode())
        self._file.flush()

    def durable_size(self) -> int:
        """Flush the file to disk and return its size in bytes."""
        check_held(self.path)
        os.fsync(self._file.fileno())
        return self._file.tell()

    def check_holds(self, size: int) -> None:
        """Raise CheckpointError if the file is shorter than `size` bytes."""
        found = self.path.stat().st_size
        if found < size:
            raise CheckpointError(
                f"{self.path}: expected at least the {size} bytes that the checkpoint recorded, "
                f"found {found}; the file was changed: restore it, or train into a new --out"
            )

    def cut(self, size: int) -> None:
        """Truncate the file to `size` bytes; call `check_holds` before."""
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete records of a `.jsonl` file in order.

    Each has a `step`, may have a `split`, and otherwise finite numbers, or None for values that
    were not finite. Raises InputError with the line number for anything else, OSError if the file
    cannot be read.
    """
    number, rest = 0, b""
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()  # incomplete; the last one of a killed run stays so
            if len(rest) > MAX_LINE:
                raise InputError(
                    f"{path}:{number + 1 + len(lines)}: expected a line of at most "
                    f"{MAX_LINE:,} bytes, found a longer one; the file is damaged"
                )
            for line in lines:
                number += 1
                yield _record(line, path, number)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return all complete records of a `.jsonl` file; raises what `records_of` raises."""
    return list(records_of(path))


def read_thinned(path: Path, kept: int | None = None) -> list[dict[str, Any]]:
    """Return the records of a `.jsonl` file for a plot, thinned out if the file is very long.

    Per split all records are returned up to 2 x `MANY`, beyond that every second, fourth, ... one;
    the last record and those of step `kept` are always included. Raises what `records_of` raises.
    """
    thinned: defaultdict[str | None, _Thinned] = defaultdict(_Thinned)
    for number, record in enumerate(records_of(path)):
        thinned[record.get("split")].add(number, record, record["step"] == kept)
    numbered = {n: record for part in thinned.values() for n, record in part.all().items()}
    return [numbered[number] for number in sorted(numbered)]


class _Thinned:
    """A thinned-out selection of a split's records, by their number in the file."""

    def __init__(self) -> None:
        self._seen = 0
        self._every = 1
        self._spread: dict[int, dict[str, Any]] = {}
        self._kept: dict[int, dict[str, Any]] = {}
        self._last: tuple[int, dict[str, Any]] | None = None

    def add(self, number: int, record: dict[str, Any], is_kept: bool) -> None:
        self._last = number, record
        if is_kept:
            self._kept[number] = record
        if self._seen % self._every == 0:
            self._spread[number] = record
            if len(self._spread) > 2 * MANY:
                self._every *= 2
                self._spread = dict(islice(self._spread.items(), None, None, 2))
        self._seen += 1

    def all(self) -> dict[int, dict[str, Any]]:
        return self._spread | self._kept | dict([self._last] if self._last else [])


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    record = parse_json(line, f"{path}:{number}")
    fault = _fault_of(record)
    if fault is not None:
        raise InputError(
            f"{path}:{number}: {fault}; the file is damaged, or imagetok did not write it"
        )
    return record


def _fault_of(record: object) -> str | None:
    """Return why an object is not a record of a log; None if it is one."""
    if type(record) is not dict:
        return f"expected an object, found {type(record).__name__}"
    step = record.get("step")
    if type(step) is not int or not 0 <= step < MAX_STEP:
        return f"step: expected a whole number from 0 on, found {str(step)[:40]}"
    for name, value in record.items():
        kind = type(value)
        if kind is float or kind is int:
            if not -_LARGEST <= value <= _LARGEST:
                return f"{name}: expected a finite number, found a larger one"
        elif value is not None and (kind is not str or name != "split"):
            return f"{name}: expected a number or null, found {kind.__name__}"
    return None


def test_record(records: Sequence[Mapping[str, Any]], exported: int | None) -> dict[str, Any]:
    """Return the held-out record of the exported step, or else the last one; empty if none."""
    tests = [record for record in records if record.get("split") == "test"]
    of_exported = [record for record in tests if record.get("step") == exported]
    found = of_exported or tests
    return dict(found[-1]) if found else {}
