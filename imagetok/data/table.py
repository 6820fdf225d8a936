"""Datasets from a CSV or JSONL file of image paths and labels."""

import csv
import json
import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NamedTuple

from imagetok.data.compressed_images import FileImages, below
from imagetok.data.config import TableConfig
from imagetok.data.labels_and_splits import (
    SPLIT_NAMES,
    label_text,
    members_by_split,
    number_labels,
    split_indices,
    split_members,
    split_of,
    splits_in_paths,
)
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.io.regular_files import open_regular
from imagetok.suggestions import are, counted

logger = logging.getLogger("imagetok")
_SHOWN = 10
_SPLIT_COLUMNS = ("split", "splits", "set")
"""Names, in lower case, of a column of splits that need not be named in the config."""


class TableRow(NamedTuple):
    """One row of a table: its line number, and its values by column name."""

    line: int
    values: dict[str, str]


class _Columns(NamedTuple):
    """The columns of a table that are used, with one value per row."""

    lines: array
    files: list[str]
    labels: list[str]
    splits: list[str]
    """Split names as written in the table, or in the files' paths; empty without splits."""


def open_table(config: TableConfig, split: str, contract: ImageContract) -> FileImages:
    """Open the images that a table lists, in its order.

    Images that are missing are unreadable, and warned of. Raises InputError that lists the first
    wrong lines (no path, repeated image, unknown split), or the first missing images if half of all
    are missing or more, ConfigError for a column that the table does not have.
    """
    path = Path(config.file).expanduser()
    root = Path(config.root).expanduser() if config.root else path.parent
    columns = _read_columns(path, config)
    refuse_rows(path, list(_wrong_rows(columns)), len(columns.lines))
    _warn_of_missing(path, list(_missing_rows(root, columns)), len(columns.lines))
    labels, class_names = number_labels(
        columns.labels, lambda i: f"{path}: line {columns.lines[i]}"
    )
    chosen = _chosen(config, path, columns, split)
    return FileImages(
        root,
        columns.files if len(chosen) == len(labels) else [columns.files[i] for i in chosen],
        name="table",
        split=split,
        contract=contract,
        labels=[labels[i] for i in chosen],
        class_names=class_names,
    )


def _read_columns(path: Path, config: TableConfig) -> _Columns:
    """Read the columns that the config names, row by row, because a table may have millions."""
    names = list(filter(None, [config.image, config.label, config.splits]))
    wanted = set(names)
    found = _Columns(array("q"), [], [], [])
    stored: dict[str, str] = {}  # one copy of each distinct label and split, to save memory
    first, missing, splits = None, None, config.splits
    for row in rows_of(path):
        if first is None:
            first, splits = row, config.splits or _split_column(row)
        if not row.values.keys() >= wanted:
            missing = missing or row
            continue
        found.lines.append(row.line)
        found.files.append(row.values[config.image])
        if config.label:
            label = row.values[config.label]
            found.labels.append(stored.setdefault(label, label))
        if splits:
            part = row.values.get(splits, "")
            found.splits.append(stored.setdefault(part, part))
    check_columns(path, [row for row in (missing or first,) if row is not None], names)
    if not config.splits and all(split_of(part) is None for part in set(found.splits)):
        found = found._replace(splits=splits_in_paths(found.files))
    return found if config.label else found._replace(labels=[""] * len(found.lines))


def _split_column(row: TableRow) -> str:
    """Return the column that by its name holds splits; "" if there is none."""
    columns = {name.strip().lower(): name for name in reversed(row.values)}
    return next((columns[name] for name in _SPLIT_COLUMNS if name in columns), "")


def _wrong_rows(columns: _Columns) -> Iterator[str]:
    seen: set[str] = set()
    for i, file in enumerate(columns.files):
        line = columns.lines[i]
        if not file:
            yield f"line {line}: no such image: no path"
        elif file in seen:
            yield f"line {line}: {file} is listed twice"
        elif columns.splits and split_of(columns.splits[i]) is None:
            known = ", ".join(name for names in SPLIT_NAMES.values() for name in names)
            yield f"line {line}: expected one of the splits {known}, found {columns.splits[i]!r}"
        seen.add(file)


def _missing_rows(root: Path, columns: _Columns) -> Iterator[str]:
    at = below(root)
    for line, file in zip(columns.lines, columns.files, strict=True):
        if not os.path.isfile(at(file)):  # noqa: PTH113
            yield f"line {line}: no such image: {root / file}"


def _warn_of_missing(path: Path, faults: list[str], count: int) -> None:
    """Warn of missing images; InputError if half or more are missing, as with a wrong `root`."""
    if 2 * len(faults) >= count:
        refuse_rows(path, faults, count)
    if faults:
        logger.warning(
            "%s: %d of %s missing, counted as unreadable:%s",
            *(path, len(faults), counted(count, "image"), _listed(faults)),
        )


def _chosen(config: TableConfig, path: Path, columns: _Columns, split: str) -> Sequence[int]:
    """Return the indices of the rows that belong to a split."""
    count = len(columns.lines)
    if split == "all":
        return range(count)
    if not columns.splits:
        if split == "val":
            raise ConfigError(
                f"{path}: split val needs a column of splits; name it with splits=COLUMN"
            )
        return split_indices(count, split, config.holdout, str(path))
    return split_members(members_by_split(columns.splits), split, config.holdout, str(path))


def read_table(path: Path) -> list[TableRow]:
    """Return all rows of a table; see `rows_of`."""
    return list(rows_of(path))


def rows_of(path: Path) -> Iterator[TableRow]:
    """Yield the rows of a CSV file with a header line, or of a JSONL file of objects.

    Malformed lines are left out; after the last row InputError is raised that lists them.
    """
    is_json = path.suffix.lower() == ".jsonl"
    newline = "\n" if is_json else ""
    with _refusing(path), TextIOWrapper(open_regular(path), "utf-8-sig", newline=newline) as file:
        yield from (_json_rows if is_json else _csv_rows)(path, file)


def _csv_rows(path: Path, file: Iterable[str]) -> Iterator[TableRow]:
    reader = csv.reader(file, strict=True)
    faults, count = [], 0
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(
                f"{path}: line 1: expected different column names, found {', '.join(header)}"
            )
        for values in reader:
            if not values:  # an empty line
                continue
            count += 1
            if len(values) == len(header):
                yield TableRow(reader.line_num, dict(zip(header, values, strict=True)))
            else:
                faults.append(
                    f"line {reader.line_num}: expected {counted(len(header), 'value')}, found "
                    f"{len(values)}"
                )
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not valid CSV ({error})") from None
    refuse_rows(path, faults, count)


def _json_rows(path: Path, file: Iterable[str]) -> Iterator[TableRow]:
    faults, count = [], 0
    for line, row in enumerate(file, 1):
        if not row.strip():
            continue
        count += 1
        try:
            yield TableRow(line, {key: label_text(value) for key, value in json.loads(row).items()})
        except (ValueError, AttributeError, RecursionError):
            faults.append(f"line {line}: expected a JSON object, found {row.rstrip()[:80]!r}")
    refuse_rows(path, faults, count)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file; raises InputError if it cannot be read or is not UTF-8."""
    with _refusing(path), TextIOWrapper(open_regular(path), "utf-8-sig") as file:
        return file.read()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(
            f"{path}: expected UTF-8 text, found another encoding; save it as UTF-8"
        ) from None


def check_columns(path: Path, rows: list[TableRow], names: list[str]) -> None:
    """Raise InputError if there are no rows, ConfigError if a named column is missing."""
    if not rows:
        raise InputError(f"{path}: expected one row per image below a header line, found none")
    for name in filter(None, names):
        missing = next((row for row in rows if name not in row.values), None)
        if missing is not None:
            raise ConfigError(
                f"{path}: line {missing.line}: expected a column {name!r}, found "
                f"{', '.join(missing.values)}; name the columns of your table with image=, label= "
                "(empty for none), splits="
            )


def refuse_rows(path: Path, faults: list[str], count: int) -> None:
    """Raise InputError that lists the first of `faults`, if there are any, out of `count` rows."""
    if faults:
        raise InputError(
            f"{path}: {len(faults)} of {counted(count, 'row')} {are(len(faults))} "
            f"wrong:{_listed(faults)}"
        )


def _listed(faults: list[str]) -> str:
    lines = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
    return lines + (f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else "")
