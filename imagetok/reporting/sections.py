"""The parts of a report: sections and blocks, as plain data independent of HTML."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from imagetok.errors import ConfigError, InputError
from imagetok.pictures import as_pixels


@dataclass(frozen=True)
class Text:
    """One paragraph of plain text."""

    paragraph: str


@dataclass(frozen=True)
class Table:
    """A table with a header; numbers are formatted and aligned, None is shown as a dash.

    The first cell of a row is its header. best: (row, column) of every cell to mark as best.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    best: Collection[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ConfigError(
                    f"table {self.caption!r}: row {i} has {len(row)} cells "
                    f"but the header has {len(self.header)}"
                )


@dataclass(frozen=True)
class Figure:
    """A figure: SVG bytes, as returned by `imagetok.reporting.figures`."""

    image: bytes
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.image.startswith(b"<svg"):
            raise InputError(
                f"figure {self.alt!r}: expected the bytes of an SVG, which follows the reader's "
                f"light or dark mode, found bytes that start with {self.image[:16]!r}"
            )


@dataclass(frozen=True, eq=False)
class Pictures:
    """A grid of images, row by row, enlarged without smoothing.

    images: (N, C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
    row_labels: one per row, or empty. column_headers: one per column, such as the class of an
    image and its reconstructions, or empty. A label or header may be "" for none; without any, a
    narrow page has fewer columns. empty: positions of images that are not shown, where a row has
    fewer than `columns`.
    """

    images: Tensor | np.ndarray
    columns: int
    row_labels: Sequence[str] = ()
    column_headers: Sequence[str] = ()
    caption: str = ""
    empty: Collection[int] = ()

    def __post_init__(self) -> None:
        as_pixels(self.images)
        if self.columns < 1:
            raise ConfigError(f"pictures {self.caption!r}: expected columns >= 1")
        rows = -(-len(self.images) // self.columns)
        wanted = (("row_labels", self.row_labels, rows),)
        wanted += (("column_headers", self.column_headers, self.columns),)
        for name, labels, count in wanted:
            if labels and len(labels) != count:
                raise ConfigError(
                    f"pictures {self.caption!r}: {len(self.images)} images in {self.columns} "
                    f"columns need {count} {name} or none, found {len(labels)}"
                )


@dataclass(frozen=True)
class Commands:
    """Shell commands to copy, one per line."""

    commands: Sequence[str]
    caption: str = ""


@dataclass(frozen=True)
class Numbers:
    """Summary numbers, shown as tiles: (label, value, explanation) each."""

    numbers: Sequence[tuple[str, object, str]]


@dataclass(frozen=True)
class Meanings:
    """Names and what they mean."""

    meanings: Mapping[str, str]


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away behind a summary until the reader opens them."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Table | Figure | Pictures | Commands | Numbers | Meanings | Details


def glossary(meanings: Mapping[str, str]) -> list[Details]:
    """Return what the names in a table mean, folded away below it; nothing if there is none."""
    return [Details("What these names mean", [Meanings(meanings)])] if meanings else []


@dataclass(frozen=True)
class ReportSection:
    """A section of a report, listed in its table of contents."""

    title: str
    blocks: Sequence[Block]
