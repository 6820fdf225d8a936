"""Importing codes from parquet or .npy files into a code dataset, bound to a tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np

from imagetok.codes.dataset_commit import EncodeReport, commit_manifest, commit_plan, is_complete
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.codes.interchange.format import (
    EDITED,
    ROWS,
    Binding,
    CodeRows,
    ContentHash,
    ReadableRows,
    code_names,
)
from imagetok.codes.interchange.labels import whole_labels
from imagetok.codes.interchange.npy import NpyRows
from imagetok.codes.interchange.parquet import ParquetRows
from imagetok.codes.results import Encoded
from imagetok.codes.schema import CodePlan, Skip, TokenizerId, smallest_dtype
from imagetok.codes.shard_writer import EncodedPart, write_shard
from imagetok.data import NO_LABEL
from imagetok.data.labels_and_splits import MAX_CLASSES
from imagetok.durable import lock
from imagetok.errors import InputError
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.loading import open_tokenizer, recorded_name


def import_codes(source: Path | str, tokenizer: Tokenizer | Path | str, out: Path | str) -> Encoded:
    """Make a code dataset from codes in a parquet file or .npy files, bound to a tokenizer.

    >>> imagetok.import_codes("codes.parquet", "runs/digits-edvae/tokenizer", "codes/again")

    source: a file or folder that `export` wrote, or codes from elsewhere: a parquet file with
    columns `codes` (lists; `codes0`, `codes1`, ... for several levels) and `label`; one .npy of
    shape (N, h, w); or a folder of codes.npy and labels.npy.
    tokenizer: a Tokenizer, a folder or a Hub id.
    out: the folder of the code dataset; a rerun continues.
    Raises ShardError for codes of another tokenizer, InputError for damaged files and for codes,
    labels or indices out of range; in both cases before anything is written.
    """
    model = open_tokenizer(tokenizer)
    name = recorded_name(tokenizer, model)
    return Encoded.of(Path(out), import_rows(Path(source), model, Path(out), name=name))


def import_rows(source: Path, tokenizer: Tokenizer, folder: Path, *, name: str) -> EncodeReport:
    """Write the code dataset of exported codes, or of codes from elsewhere; a rerun continues.

    source: a parquet file, an .npy file, or a folder of .npy files. name: the tokenizer's name,
    stored for readers only. A file that imagetok exported becomes the same dataset again, byte for
    byte. For any other file the rows are the source: row numbers become source indices, and the
    settings of the encoding are unknown. Everything is checked before anything is written: raises
    ShardError for codes of another tokenizer, InputError for damaged files and for codes, labels or
    indices out of range.
    """
    stored = _open(source, len(tokenizer.num_codes))
    checked = (
        _foreign_rows(stored, tokenizer, source.name, name)
        if stored.binding is None
        else _exported_rows(stored, stored.binding, tokenizer)
    )
    plan = checked.plan
    with lock(folder):
        commit_plan(folder, plan)
        for shard in range(plan.num_shards):
            if not is_complete(folder, plan, shard):
                write_shard(folder, plan, shard, checked.parts(shard))
        return commit_manifest(folder, plan, len(checked.skipped))


def _open(source: Path, levels: int) -> ReadableRows:
    if not source.exists():
        raise InputError(
            f"{source}: does not exist; expected a .parquet file, an .npy file, or a folder"
        )
    if source.is_dir() or source.suffix == ".npy":
        return NpyRows(source, levels)
    return ParquetRows(source, levels)


def _foreign_rows(
    stored: ReadableRows, tokenizer: Tokenizer, file: str, name: str
) -> "_CheckedRows":
    """Check all rows of a file that imagetok did not write, and make a plan for them."""
    if not stored.count:
        raise InputError(
            f"{stored.where}: expected the codes of at least one image, found 0 rows; check the "
            "program that wrote the file, and write it again"
        )
    plan = CodePlan(
        tokenizer=TokenizerId(fingerprint=tokenizer.codes_fingerprint, name=name),
        num_codes=tokenizer.num_codes,
        grids=tokenizer.grids,
        image=tokenizer.image,
        source=f"import:{file}",
        source_identity="",
        num_inputs=stored.count,
        labelled=stored.is_labelled,
        class_names=stored.class_names,
    )
    content, largest = ContentHash(), NO_LABEL
    for rows in _CheckedRows(stored, plan, ()):
        content.update(rows)
        if rows.labels is not None:
            largest = max(largest, int(rows.labels.max()))
    names = plan.class_names or tuple(str(label) for label in range(largest + 1))
    found = {"source_identity": content.hexdigest(None), "class_names": names}
    return _CheckedRows(stored, plan.model_copy(update=found | {"labelled": bool(names)}), ())


def _exported_rows(stored: ReadableRows, binding: Binding, tokenizer: Tokenizer) -> "_CheckedRows":
    """Check that all rows of a file that imagetok exported are unchanged."""
    plan, skips = binding.plan, [skip.index for skip in binding.skipped]
    made_by, remedy = plan.tokenizer, "pass the tokenizer that made them"
    check_same_tokenizer(
        stored.where, made_by.fingerprint, tokenizer.codes_fingerprint, "--tokenizer", remedy,
        name=made_by.name,
    )  # fmt: skip
    fits = (
        (plan.num_codes, plan.grids, plan.image)
        == (tokenizer.num_codes, tokenizer.grids, tokenizer.image)
        and plan.num_inputs == stored.count + len(skips)
        and plan.labelled == stored.is_labelled
        and skips == sorted(set(skips))
        and all(index < plan.num_inputs for index in skips)
    )
    content, checked = ContentHash(), _CheckedRows(stored, plan, binding.skipped)
    for rows in checked if fits else ():
        content.update(rows)
    if not fits or content.hexdigest(plan, binding.skipped) != binding.sha256:
        raise InputError(f"{stored.where}: its content differs from what was exported; {EDITED}")
    return checked


@final
class _CheckedRows:
    """Rows converted to the stored types and checked against the plan while they are read.

    Reading raises InputError at the first row with codes, labels or indices out of range.
    """

    def __init__(self, stored: ReadableRows, plan: CodePlan, skipped: tuple[Skip, ...]):
        self.stored = stored
        self.plan = plan
        self.skipped = skipped
        self._skips = np.array([skip.index for skip in skipped], dtype=np.int64)

    def __iter__(self) -> Iterator[CodeRows]:
        return self._pieces(0, self.stored.count)

    def parts(self, shard: int) -> Iterator[EncodedPart]:
        """Yield the rows and skips of one shard, as `encode_range` does."""
        inputs = self.plan.input_range(shard)
        first, end = (int(i) for i in np.searchsorted(self._skips, (inputs.start, inputs.stop)))
        none = np.zeros(0, dtype=np.int64)
        no_codes = tuple(np.zeros((0, *grid), dtype=np.int64) for grid in self.plan.grids)
        yield EncodedPart(no_codes, none, none.astype("<u8"), list(self.skipped[first:end]))
        offset = np.uint64(self.plan.index_offset(shard))
        for rows in self._pieces(inputs.start - first, inputs.stop - end):
            assert rows.keys is not None
            labels = np.full(len(rows.keys), NO_LABEL) if rows.labels is None else rows.labels
            yield EncodedPart(rows.codes, labels, rows.keys - offset, [])

    def _pieces(self, first: int, end: int) -> Iterator[CodeRows]:
        for start in range(first, end, ROWS):
            yield self._rows(start, min(start + ROWS, end))

    def _rows(self, start: int, stop: int) -> CodeRows:
        found = self.stored.read(start, stop)
        codes = tuple(self._codes(level, array, start) for level, array in enumerate(found.codes))
        labels = None if found.labels is None else self._labels(found.labels, start)
        positions = np.arange(start, stop)
        ranks = self._skips - np.arange(len(self._skips))  # the row before which each skip falls
        index = (positions + np.searchsorted(ranks, positions, side="right")).astype("<u8")
        if self.stored.binding and (found.keys is None or not np.array_equal(found.keys, index)):
            raise InputError(
                f"{self.stored.where}: rows {start} to {stop}: expected the source indices of the "
                f"plan in the metadata, found others; {EDITED}"
            )
        return CodeRows(codes, labels, index)

    def _codes(self, level: int, array: np.ndarray, start: int) -> np.ndarray:
        (height, width), k = self.plan.grids[level], self.plan.num_codes[level]
        where = f"{self.stored.where}: {code_names(len(self.plan.grids))[level]}"
        if array.shape[1:] not in ((height, width), (height * width,)):
            raise InputError(
                f"{where}: expected {height} x {width} codes per image, found "
                f"{' x '.join(map(str, array.shape[1:]))}; pass the tokenizer that made the codes"
            )
        _check_codes(array, k, where, start)
        return array.reshape(-1, height, width).astype(smallest_dtype(k))

    def _labels(self, array: np.ndarray, start: int) -> np.ndarray:
        where = f"{self.stored.where}: labels"
        if array.ndim != 1:
            raise InputError(
                f"{where}: expected one label per image, found an array of shape "
                f"{array.shape[1:]} per image"
            )
        classes = len(self.plan.class_names) or MAX_CLASSES
        return whole_labels(array, classes, where, start)


def _check_codes(array: np.ndarray, num_codes: int, where: str, start: int) -> None:
    if array.dtype.kind not in "iu":
        raise InputError(f"{where}: expected whole numbers, found {array.dtype}")
    outside = np.argwhere((array < 0) | (array >= num_codes))
    if len(outside):
        place = tuple(outside[0])
        raise InputError(
            f"{where}: expected codes in [0, {num_codes}), found {array[place]} in row "
            f"{start + int(place[0])}"
        )
