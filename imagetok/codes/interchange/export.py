"""Exporting a code dataset to parquet or .npy, with the fingerprint of its tokenizer."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_never, get_args

import numpy as np

from imagetok.codes.interchange.format import ROWS, Binding, CodeRows, ContentHash
from imagetok.codes.interchange.npy import NpyRows, write_npy
from imagetok.codes.interchange.parquet import ParquetRows, write_parquet
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.results import Exported
from imagetok.errors import ConfigError, ImagetokError
from imagetok.suggestions import did_you_mean

Form = Literal["parquet", "npy"]
logger = logging.getLogger("imagetok")


def export(codes: CodeDataset | Path | str, out: Path | str, *, to: Form = "parquet") -> Exported:
    """Write a code dataset as one parquet file, or as a folder of .npy files.

    >>> imagetok.export("codes/train", "codes.parquet")
    >>> imagetok.export("codes/train", "codes-npy", to="npy")

    Both formats hold codes, labels, source indices and the tokenizer's fingerprint, and
    `import_codes` recreates the same code dataset from them, byte for byte.

    codes: a code dataset, its folder or URL.
    out: the file or folder to write; it must not exist, unless it holds exactly these codes already
    (an earlier call was killed just before it ended).
    to: the format, "parquet" or "npy".
    Raises ConfigError when `out` holds anything else, ShardError for a damaged shard, ResourceError
    for parquet without pyarrow.
    """
    if to not in get_args(Form):
        known, hint = get_args(Form), did_you_mean(to, get_args(Form))
        raise ConfigError(f"to: expected {' or '.join(map(repr, known))}, found {to!r}{hint}")
    dataset = codes if isinstance(codes, CodeDataset) else open_codes(codes)
    export_codes(dataset, Path(out), to)
    return Exported(Path(out), to, len(dataset))


def export_codes(dataset: CodeDataset, out: Path, form: Form) -> None:
    """Write a code dataset as one parquet file or as a folder of .npy files, durably.

    `imagetok.codes.interchange.import_` recreates the same code dataset from it, byte for byte.
    Nothing is written if `out` holds these codes already. Raises ConfigError when `out` holds
    anything else, ShardError for a damaged shard, ResourceError for parquet without pyarrow.
    """
    content = ContentHash()
    plan = dataset.plan
    skipped = tuple(
        skip for shard in range(dataset.plan.num_shards) for skip in dataset.record(shard).skipped
    )
    rows = _rows(dataset, content)

    def bind() -> Binding:
        return Binding(plan=plan, skipped=skipped, sha256=content.hexdigest(plan, skipped))

    if out.exists():
        # A file with this name is complete; an earlier process may have been killed just after it
        # renamed the file, before it could report success.
        there = _binding_in(out, form, len(plan.num_codes))
        if there is not None and (there.plan, there.skipped) == (plan, skipped):
            for _ in rows:  # adds to the hash
                pass
            if there == bind():
                logger.info("%s: already exported, nothing to do", out)
                return
        raise ConfigError(f"{out}: exists already and holds something else; choose another --out")
    match form:
        case "parquet":
            write_parquet(out, plan, rows, bind)
        case "npy":
            write_npy(out, plan, len(dataset), rows, bind)
        case _:
            assert_never(form)


def _binding_in(out: Path, form: Form, levels: int) -> Binding | None:
    """Read the metadata of an exported file or folder; None for anything else."""
    try:
        return (NpyRows if form == "npy" else ParquetRows)(out, levels).binding
    except (ImagetokError, OSError):
        return None


def _rows(dataset: CodeDataset, content: ContentHash) -> Iterator[CodeRows]:
    """Yield the dataset in runs of `ROWS` images, and add each to the hash."""
    plan = dataset.plan
    for batch in dataset.batches(ROWS):
        rows = CodeRows(
            tuple(c.numpy().astype(plan.code_dtype(i)) for i, c in enumerate(batch.codes)),
            batch.labels.numpy().astype("<i4") if plan.labelled else None,
            batch.keys.numpy().astype(np.dtype("<u8")),
        )
        content.update(rows)
        yield rows
