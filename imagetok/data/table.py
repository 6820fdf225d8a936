"""A CSV or JSONL file of image paths and labels as a dataset."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from imagetok.data.config import TableConfig
from imagetok.data.encoded import FileImages, is_file
from imagetok.data.labels import held_out, number_labels
from imagetok.errors import ConfigError, InputError
from imagetok.files import open_regular
from imagetok.images import ImageContract

_SHOWN = 10
SPLITS = {name: name for name in ("train", "val", "test")} | {
    name: "val" for name in ("dev", "valid", "validation")
}


class Row(NamedTuple):
    """One line of a table: its number, and its values by column."""

    line: int
    values: dict[str, str]


def open_table(config: TableConfig, split: str, contract: ImageContract) -> FileImages:
    """The images that a table names, in its order.

    Raises InputError that lists the first wrong lines: no such image, an image twice, an unknown
    split; ConfigError for a column that is not there.
    """
    path = Path(config.file).expanduser()
    root = Path(config.root).expanduser() if config.root else path.parent
    rows = read_table(path)
    check_columns(path, rows, [config.image, config.label, config.splits])
    refuse_rows(path, list(_wrong_rows(config, root, rows)), len(rows))
    written = [row.values[config.label] if config.label else "" for row in rows]
    labels, class_names = number_labels(written, lambda i: f"{path}: line {rows[i].line}")
    chosen = _chosen(config, path, rows, split)
    return FileImages(
        root,
        [rows[i].values[config.image] for i in chosen],
        name="table",
        split=split,
        contract=contract,
        labels=[labels[i] for i in chosen],
        class_names=class_names,
    )


def _wrong_rows(config: TableConfig, root: Path, rows: list[Row]) -> Iterator[str]:
    seen: set[str] = set()
    for line, values in rows:
        file = values[config.image]
        if not file or not is_file(root / file):
            yield f"line {line}: no such image: {root / file if file else 'no path'}"
        elif file in seen:
            yield f"line {line}: {file} is there twice"
        elif config.splits and values[config.splits] not in SPLITS:
            found = values[config.splits]
            yield f"line {line}: expected a split of {', '.join(SPLITS)}, found {found!r}"
        seen.add(file)


def _chosen(config: TableConfig, path: Path, rows: list[Row], split: str) -> list[int]:
    """Which rows are of a split."""
    if split == "all":
        return list(range(len(rows)))
    if not config.splits:
        if split == "val":
            raise ConfigError(f"{path}: has no val without a column of splits: splits=COLUMN")
        return held_out(len(rows), split, config.holdout, str(path))
    parts = [SPLITS[row.values[config.splits]] for row in rows]
    wanted = "val" if split == "test" and "test" not in parts else split
    chosen = [i for i, part in enumerate(parts) if part == wanted]
    if not chosen:
        raise InputError(f"{path}: expected images in split {split!r}, found none")
    return chosen


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file with a header line, or of a JSONL file of objects.

    Raises InputError that says which lines are no rows.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        return list(_json_rows(path, text))
    return list(_csv_rows(path, text))


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    faults, count = [], 0
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}: line 1: a column is named twice: {', '.join(header)}")
        for values in reader:
            if not values:  # an empty line
                continue
            count += 1
            if len(values) == len(header):
                yield Row(reader.line_num, dict(zip(header, values, strict=True)))
            else:
                faults.append(
                    f"line {reader.line_num}: expected {len(header)} values, found {len(values)}"
                )
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: no CSV ({error})") from None
    refuse_rows(path, faults, count)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    faults, count = [], 0
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        count += 1
        try:
            values = json.loads(row)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            yield Row(line, {key: _text(value) for key, value in values.items()})
        else:
            faults.append(f"line {line}: expected an object, found {row[:80]!r}")
    refuse_rows(path, faults, count)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def read_text(path: Path) -> str:
    """A UTF-8 text file; InputError for any other."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected UTF-8 text, found another; save it as UTF-8") from None


def check_columns(path: Path, rows: list[Row], names: list[str]) -> None:
    """Raise InputError for no rows, ConfigError for a column that is named but not there."""
    if not rows:
        raise InputError(f"{path}: expected a row an image below a header line, found none")
    for name in filter(None, names):
        missing = next((row for row in rows if name not in row.values), None)
        if missing is not None:
            raise ConfigError(
                f"{path}: line {missing.line}: expected a column {name!r}, found "
                f"{', '.join(missing.values)}; name yours with image=, label= (empty for none), "
                "splits="
            )


def refuse_rows(path: Path, faults: list[str], count: int) -> None:
    """Raise InputError that lists the first faults, if there are any."""
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise InputError(f"{path}: {len(faults)} of {count} rows are wrong:{shown}{more}")
