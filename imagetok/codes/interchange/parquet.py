"""Codes as one parquet file, which Hugging Face `datasets` and other tools can read."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from imagetok.codes.interchange.format import (
    EDITED,
    ROWS,
    Binding,
    CodeRows,
    ReadableRows,
    code_names,
)
from imagetok.codes.schema import CodePlan
from imagetok.durable import staged_file
from imagetok.errors import InputError
from imagetok.io.json_files import as_section, parse_json
from imagetok.io.regular_files import open_regular
from imagetok.optional import require

_KEY = b"imagetok"
_INDEX = "source_index"


def write_parquet(
    out: Path, plan: CodePlan, rows: Iterator[CodeRows], bind: Callable[[], Binding]
) -> None:
    """Write columns `codes` (h lists of w), `label`, `source_index`; appears only when complete.

    rows: consecutive rows. bind: returns the metadata; called after the last row. Pages have
    checksums; row groups have `ROWS` rows.
    """
    pa, pq = _library()
    schema = _schema(pa, plan)
    with (
        staged_file(out) as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for piece in rows:
            columns = [_lists(pa, level) for level in piece.codes]
            if piece.labels is not None:
                columns.append(pa.array(piece.labels.astype(np.int64)))
            columns.append(pa.array(piece.keys))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS)
        writer.add_key_value_metadata({_KEY: bind().model_dump_json()})


@final
class ParquetRows(ReadableRows):
    """Codes in a parquet file from imagetok, or in one with the columns of `write_parquet`."""

    def __init__(self, path: Path, levels: int):
        """Open a file for a tokenizer of `levels` levels.

        The columns `label` and `source_index` are optional.
        """
        self.where = str(path)
        self._pa, pq = _library()
        with self._refusing():
            open_regular(path).close()
            self._file = pq.ParquetFile(path, page_checksum_verification=True)
            self._schema = self._file.schema_arrow
            metadata = self._file.metadata.metadata or {}
            groups = range(self._file.num_row_groups)
            sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._ends = np.cumsum(sizes, dtype=np.int64).tolist()
        self._names = code_names(levels)
        missing = [name for name in self._names if name not in self._schema.names]
        if missing:
            raise InputError(
                f"{path}: expected a column {missing[0]!r} (of {', '.join(self._names)}), found "
                f"{', '.join(self._schema.names)}; rename the columns of the file"
            )
        self.count = self._ends[-1] if self._ends else 0
        self.is_labelled = "label" in self._schema.names
        self.binding = _binding(str(path), metadata.get(_KEY))
        if self.binding is None and _INDEX in self._schema.names:
            # The footer has no checksum, so a flipped bit in it can hide all metadata.
            raise InputError(
                f"{path}: expected metadata on the source that its column {_INDEX!r} refers to, "
                f"found none; {EDITED}"
            )
        self.class_names = _class_names(metadata.get(b"huggingface"))
        self._held: tuple[int, Any] = (-1, None)

    def read(self, start: int, stop: int) -> CodeRows:
        tables = []
        while start < stop:
            group = bisect_right(self._ends, start)
            first = self._ends[group - 1] if group else 0
            end = min(stop, self._ends[group])
            tables.append(self._group(group).slice(start - first, end - start))
            start = end
        if not tables:
            tables = [self._schema.empty_table()]
        table = self._pa.concat_tables(tables)
        has = table.schema.names
        return CodeRows(
            tuple(self._array(table, name) for name in self._names),
            self._labels(table) if "label" in has else None,
            self._array(table, _INDEX) if _INDEX in has else None,
        )

    def _group(self, group: int) -> Any:
        if self._held[0] != group:
            wanted = [n for n in (*self._names, "label", _INDEX) if n in self._schema.names]
            with self._refusing():
                self._held = (group, self._file.read_row_group(group, columns=wanted))
        return self._held[1]

    def _array(self, table: Any, name: str) -> np.ndarray:
        """Return a column of numbers, or of (nested) lists of equal lengths, as an array."""
        column = table[name].combine_chunks()
        values, shape = column, [len(column)]
        types = self._pa.types
        while True:
            if isinstance(values, self._pa.ExtensionArray):
                values = values.storage
            if values.null_count:
                raise InputError(f"{self.where}: column {name!r}: expected no empty values")
            if types.is_fixed_size_list(values.type):
                lengths = [values.type.list_size]
            elif types.is_list(values.type) or types.is_large_list(values.type):
                lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False)).tolist()
            else:
                break
            if len(lengths) > 1:
                raise InputError(
                    f"{self.where}: column {name!r}: expected lists of equal length, found lengths "
                    f"{lengths[0]} to {lengths[-1]}; each row of the table has to hold the codes "
                    "of one image, as h lists of w codes"
                )
            shape += lengths
            values = values.flatten()
        if not types.is_integer(values.type):
            raise InputError(
                f"{self.where}: column {name!r}: expected whole numbers, found {values.type}"
            )
        return values.to_numpy(zero_copy_only=False).reshape(shape)

    def _labels(self, table: Any) -> np.ndarray:
        """Return the labels in their own type; an empty value is None or nan."""
        column, types = table["label"].combine_chunks(), self._pa.types
        if isinstance(column, self._pa.ExtensionArray):
            column = column.storage
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        is_read = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
        is_text = types.is_string(column.type) or types.is_large_string(column.type)
        if not is_text and not any(check(column.type) for check in is_read):
            raise InputError(
                f"{self.where}: column 'label': expected whole numbers, found {column.type}"
            )
        return column.to_numpy(zero_copy_only=False)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except (self._pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.where}: not a parquet file, or a damaged one ({reason})"
            ) from None


def _schema(pa: Any, plan: CodePlan) -> Any:
    """Return the schema, with metadata for `datasets` that describe columns and class names."""
    fields, features = [], {}
    for level, name in enumerate(code_names(len(plan.num_codes))):
        height, width = plan.grids[level]
        kind = pa.from_numpy_dtype(plan.code_dtype(level))
        fields.append((name, pa.list_(pa.list_(kind, width), height)))
        value = {"_type": "Value", "dtype": str(kind)}
        row = {"_type": "List", "length": width, "feature": value}
        features[name] = {"_type": "List", "length": height, "feature": row}
    if plan.labelled:
        fields.append(("label", pa.int64()))
        features["label"] = {"_type": "ClassLabel", "names": list(plan.class_names)}
    fields.append((_INDEX, pa.uint64()))
    features[_INDEX] = {"_type": "Value", "dtype": "uint64"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _lists(pa: Any, codes: np.ndarray) -> Any:
    flat = pa.array(codes.reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(flat, codes.shape[2])
    return pa.FixedSizeListArray.from_arrays(rows, codes.shape[1])


def _binding(where: str, text: bytes | None) -> Binding | None:
    if text is None:
        return None
    return as_section(parse_json(text, f"{where}: its metadata"), Binding, where)


def _class_names(text: bytes | None) -> tuple[str, ...]:
    """Return the class names in the metadata that `datasets` wrote for `label`, if any."""
    try:
        found = parse_json(text or b"{}", "")
        return tuple(str(name) for name in found["info"]["features"]["label"]["names"])
    except (InputError, KeyError, TypeError):
        return ()


def _library() -> tuple[Any, Any]:
    parquet = require("pyarrow.parquet", extra="data", purpose="parquet")
    return require("pyarrow", extra="data", purpose="parquet"), parquet
