"""Records and hashes in exported codes, from which the same code dataset can be made again."""

import hashlib
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np

from imagetok.codes.schema import CodePlan, Skip
from imagetok.config import Section
from imagetok.durable import canonical_json

ROWS = 16384
"""Number of images held in memory at once, and per row group of a parquet file."""


EDITED = (
    "it is damaged or was edited. To import rows that you changed on purpose, remove imagetok's "
    "metadata (imagetok.json) and the source indices"
)
"""End of the messages for a file that differs from what was exported."""


class CodeRows(NamedTuple):
    """Codes, labels and source indices of consecutive images."""

    codes: tuple[np.ndarray, ...]
    """(n, h, w) integers per level, coarse to fine."""
    labels: np.ndarray | None
    """(n,) integers, -1 = none; None if unlabelled. As read, they may be spelt in other types."""
    keys: np.ndarray | None
    """(n,) source indices; None where a file has none."""


class Binding(Section):
    """Metadata of an exported file, stored as JSON beside its arrays."""

    format_version: Literal[1] = 1
    plan: CodePlan
    skipped: tuple[Skip, ...]
    sha256: str
    """sha256 of plan, skips and arrays; see `ContentHash`."""


class ContentHash:
    """sha256 of codes in row order, independent of file format and of how they are split."""

    def __init__(self) -> None:
        self._digests = [hashlib.sha256()]

    def update(self, rows: CodeRows) -> None:
        """Add rows: codes in the smallest type of their K, labels `<i4`, source indices `<u8`."""
        arrays = [a for a in (*rows.codes, rows.labels, rows.keys) if a is not None]
        while len(self._digests) < len(arrays):
            self._digests.append(hashlib.sha256())
        for digest, array in zip(self._digests, arrays, strict=True):
            digest.update(np.ascontiguousarray(array).data)

    def hexdigest(self, plan: CodePlan | None, skipped: tuple[Skip, ...] = ()) -> str:
        """Return the hash of all rows added so far, of their plan and of the skips."""
        content = {
            "plan": plan and plan.model_dump(mode="json"),
            "skipped": [skip.model_dump(mode="json") for skip in skipped],
            "arrays": [digest.hexdigest() for digest in self._digests],
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()


class ReadableRows(ABC):
    """Codes in a file of another format, readable in runs of rows.

    Opening and reading raise InputError, with the file's name, for a damaged file or one that
    cannot hold codes; the importer checks ranges and shapes.
    """

    where: str
    """Path as text, for messages."""
    count: int
    """Number of rows (images)."""
    is_labelled: bool
    binding: Binding | None
    """Metadata of the export; None for a file that imagetok did not write."""
    class_names: tuple[str, ...] = ()
    """Class names of a file without a binding, if it has any."""

    @abstractmethod
    def read(self, start: int, stop: int) -> CodeRows:
        """Return rows [start, stop), with codes of shape (n, h, w) or (n, h * w) per level."""


def code_names(levels: int) -> list[str]:
    """Return the array name of each level: `codes`, or `codes0`, `codes1`, ... for several."""
    return ["codes"] if levels == 1 else [f"codes{level}" for level in range(levels)]
