"""What codes carry when they leave their shards, so that the same code dataset can come back."""

import hashlib
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import numpy as np

from imagetok.codes.schema import CodePlan, Skip
from imagetok.config import Section
from imagetok.durable import canonical_json

ROWS = 16384
"""Images in memory at once, and in a row group of a parquet file."""


EDITED = (
    "it is damaged, or was edited. Rows changed on purpose are a source of their own: leave out "
    "imagetok's metadata (imagetok.json), and source indices"
)
"""What to say of a file that is not what was exported."""


class CodeRows(NamedTuple):
    """Consecutive images' codes, labels and source indices."""

    codes: tuple[np.ndarray, ...]
    """(n, h, w) integers per level, coarse to fine."""
    labels: np.ndarray | None
    """(n,) integers, -1 = none; None if unlabelled."""
    keys: np.ndarray | None
    """(n,) source indices; None where a file has none."""


class Binding(Section):
    """What an exported file says of itself, as JSON beside its arrays."""

    format_version: Literal[1] = 1
    plan: CodePlan
    skipped: tuple[Skip, ...]
    sha256: str
    """Of plan, skips and arrays; see `ContentHash`."""


class ContentHash:
    """sha256 of codes in row order, however they are stored and cut into pieces."""

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
        """Of all rows added and of what they belong to."""
        content = {
            "plan": plan and plan.model_dump(mode="json"),
            "skipped": [skip.model_dump(mode="json") for skip in skipped],
            "arrays": [digest.hexdigest() for digest in self._digests],
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()


class ReadableRows(ABC):
    """Codes in a file of another format, in rows that can be read in pieces.

    Whatever is read raises InputError, with the file's name, where it is damaged or of a form that
    codes cannot have; ranges and shapes are for the importer to check.
    """

    where: str
    """For messages."""
    count: int
    is_labelled: bool
    binding: Binding | None
    """None in a file that imagetok did not write."""
    class_names: tuple[str, ...] = ()
    """Of labels, where a file without a binding tells them."""

    @abstractmethod
    def read(self, start: int, stop: int) -> CodeRows:
        """Rows [start, stop), codes as (n, h, w) or (n, h * w)."""


def code_names(levels: int) -> list[str]:
    """Of the levels' arrays: `codes`, or `codes0`, `codes1`, ... of several."""
    return ["codes"] if levels == 1 else [f"codes{level}" for level in range(levels)]
