"""Append-only JSON lines, one object a record, that can be cut back to a checkpoint."""

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
"""Records that a picture of a log is drawn from; see `read_thinned`."""
BLOCK, MAX_LINE = 1 << 18, 1 << 20
MAX_STEP = 2**53
_LARGEST = sys.float_info.max


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

    def check_holds(self, size: int) -> None:
        """Raise CheckpointError for a file of less than `size` bytes."""
        found = self.path.stat().st_size
        if found < size:
            raise CheckpointError(
                f"{self.path}: expected at least {size} bytes as the checkpoint recorded, found "
                f"{found}; the file was changed, restore it or train into a new --out"
            )

    def cut(self, size: int) -> None:
        """Forget everything after the first `size` bytes, which `check_holds` saw."""
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a `.jsonl` file in order, read one by one.

    Each has a `step`, may have a `split`, and else finite numbers, or None where one was not.
    Raises InputError, which names the line, for anything else, and OSError where it cannot be read.
    """
    number, rest = 0, b""
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()  # begun; at the end one that a kill cut off, or none
            if len(rest) > MAX_LINE:
                raise InputError(
                    f"{path}:{number + 1 + len(lines)}: expected lines of at most "
                    f"{MAX_LINE:,} bytes, found a longer one; damaged"
                )
            for line in lines:
                number += 1
                yield _record(line, path, number)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records of a `.jsonl` file; raises what `records_of` raises."""
    return list(records_of(path))


def read_thinned(path: Path, kept: int | None = None) -> list[dict[str, Any]]:
    """Records of a `.jsonl` file for a picture of it: all of a usual one, some of a very long one.

    Of each split all are kept up to 2 x `MANY`, beyond that every second, fourth, ... one; the last
    of each and those of the step `kept` always are. Raises what `records_of` raises.
    """
    thinned: defaultdict[str | None, _Thinned] = defaultdict(_Thinned)
    for number, record in enumerate(records_of(path)):
        thinned[record.get("split")].add(number, record, record["step"] == kept)
    numbered = {n: record for part in thinned.values() for n, record in part.all().items()}
    return [numbered[number] for number in sorted(numbered)]


class _Thinned:
    """Some records of a split, by their place in the file."""

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
        raise InputError(f"{path}:{number}: {fault}; damaged, or not written by imagetok")
    return record


def _fault_of(record: object) -> str | None:
    """What makes it no record of a log; None where nothing does."""
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
    """The measures on the held-out split of the exported step, or else the last; empty if none."""
    tests = [record for record in records if record.get("split") == "test"]
    of_exported = [record for record in tests if record.get("step") == exported]
    found = of_exported or tests
    return dict(found[-1]) if found else {}
