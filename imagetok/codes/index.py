"""The index of a folder with a code dataset for each grid of codes.

`index.json` is written last and lists ordinary code datasets in subfolders named by image size,
such as `96x64/`; `96x64.npy` beside it holds the source index of each of the dataset's inputs.
`encoding.json`, written first, says what the folder is made with.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.schema import INDEX, Skip, TokenizerId, read_json
from imagetok.codes.verify import verify_codes
from imagetok.config import Section
from imagetok.durable import sha256_file
from imagetok.errors import ShardError
from imagetok.precision import EncodePrecision
from imagetok.suggestions import counted

STARTED = "encoding.json"


class IndexPlan(Section):
    """Everything that determines the datasets of an index."""

    format_version: Literal[1] = 1
    tokenizer: TokenizerId
    source: str
    source_identity: str
    num_inputs: NonNegativeInt
    stride: PositiveInt
    """Number to a multiple of which both sides of an image are cropped."""
    samples_per_shard: PositiveInt
    precision: EncodePrecision


class GridEntry(Section):
    """One of the datasets."""

    folder: str
    """Its subfolder: the size of the images, height x width."""
    grids: tuple[tuple[PositiveInt, PositiveInt], ...]
    inputs: NonNegativeInt
    written: NonNegativeInt
    root: str
    """Root hash of the dataset's manifest."""
    sources_sha256: str
    """sha256 of the file of source indices."""


class CodeIndex(Section):
    """The index: how many images, in which datasets, and which were skipped before encoding."""

    format_version: Literal[1] = 1
    plan: IndexPlan
    datasets: tuple[GridEntry, ...]
    skipped: tuple[Skip, ...]
    """Images that are unreadable or smaller than one code; `index` is that of the source."""
    inputs: NonNegativeInt
    written: NonNegativeInt


def is_index(folder: Path) -> bool:
    """Return whether a folder holds the datasets of several grids, finished or not."""
    return (folder / INDEX).is_file() or (folder / STARTED).is_file()


def read_index(folder: Path | str) -> CodeIndex:
    """Read the index of a folder; raises ShardError if it is unfinished, damaged or none."""
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        found = "unfinished: run the same `imagetok encode` command again to continue"
        raise ShardError(f"{folder}: {found if is_index(folder) else f'it has no {INDEX}'}")
    index = read_json(folder / INDEX, CodeIndex)
    sums = sum(e.inputs for e in index.datasets), sum(e.written for e in index.datasets)
    names = [entry.folder for entry in index.datasets]
    if (sums[0] + len(index.skipped), sums[1]) != (index.inputs, index.written) or any(
        name in ("", ".", "..") or "/" in name or names.count(name) > 1 for name in names
    ):
        raise ShardError(f"{folder / INDEX}: its numbers or names do not fit; the file is damaged")
    return index


def open_datasets(folder: Path | str) -> Iterator[tuple[GridEntry, CodeDataset]]:
    """Open the datasets of an index one after the other.

    Raises ShardError for a dataset that is missing, damaged or another than when it was listed.

    >>> for entry, dataset in open_datasets("codes"): print(entry.folder, len(dataset))
    """
    folder = Path(folder)
    for entry in read_index(folder).datasets:
        dataset = open_codes(folder / entry.folder)
        if dataset.manifest.root != entry.root:
            raise ShardError(
                f"{folder / entry.folder}: its root hash differs from the one in {INDEX}; it was "
                "replaced or encoded again"
            )
        found = dataset.grids, dataset.manifest.inputs, len(dataset)
        if found != (entry.grids, entry.inputs, entry.written):
            raise ShardError(
                f"{folder / entry.folder}: its grids and numbers of images differ from those in "
                f"{INDEX}; the file is damaged"
            )
        yield entry, dataset


def source_indices(folder: Path | str, entry: GridEntry) -> np.ndarray:
    """Return the source index of each input of a dataset, (inputs,) uint64.

    Raises ShardError for a file that is missing or damaged.
    """
    path = Path(folder) / f"{entry.folder}.npy"
    if not path.is_file() or sha256_file(path) != entry.sources_sha256:
        raise ShardError(f"{path}: missing, or its sha256 differs from the one in {INDEX}")
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise ShardError(f"{path}: expected a numpy array, found something else") from None
    if found.dtype != np.uint64 or found.shape != (entry.inputs,):
        raise ShardError(
            f"{path}: expected {counted(entry.inputs, 'number')} of type uint64, found "
            f"{found.dtype} of shape {found.shape}"
        )
    return found


def verify_index(folder: Path) -> list[str]:
    """Verify every byte of all datasets of an index; return one line per fault."""
    index = read_index(folder)
    faults: list[str] = []
    known = {INDEX, STARTED}
    inputs = [skip.index for skip in index.skipped]
    for entry in index.datasets:
        known |= {entry.folder, f"{entry.folder}.npy"}
        try:
            inputs += source_indices(folder, entry).tolist()
        except ShardError as error:
            faults.append(str(error))
    if not faults and sorted(inputs) != list(range(index.inputs)):
        faults.append(
            f"{folder}: expected each of {counted(index.inputs, 'image')} in one dataset, or "
            "skipped, found some twice or not at all"
        )
    try:
        for _, dataset in open_datasets(folder):
            faults += verify_codes(dataset.folder)
    except ShardError as error:
        faults.append(str(error))
    others = sorted(path for path in folder.iterdir() if path.name not in known)
    return faults + [f"{path}: not part of the datasets" for path in others]
