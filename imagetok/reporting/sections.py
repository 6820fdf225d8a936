"""The parts of a report: sections and blocks, as plain data independent of HTML."""

from collections.abc import Collection, Sequence
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
    """A figure: SVG or PNG bytes, as returned by `imagetok.reporting.figures`."""

    image: bytes
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if self.media_type is None:
            raise InputError(
                f"figure {self.alt!r}: expected the bytes of an SVG or PNG, "
                f"found bytes that start with {self.image[:16]!r}"
            )

    @property
    def media_type(self) -> str | None:
        """`image/svg+xml` or `image/png`, detected from the bytes; None for anything else."""
        if self.image.startswith(b"\x89PNG\r\n\x1a\n"):
            return "image/png"
        start = self.image.lstrip()
        is_svg = start.startswith((b"<svg", b"<?xml")) and b"<svg" in start[:1000]
        return "image/svg+xml" if is_svg else None


@dataclass(frozen=True, eq=False)
class Pictures:
    """A grid of images, row by row, enlarged without smoothing.

    images: (N, C, H, W) with C = 1 or 3, uint8 or floating point in [0, 1].
    row_labels: one per row, or empty. column_headers: one per column, or empty. names: one per
    image, shown above it (such as its class; "" for none), or empty. empty: positions of images
    that are not shown, where a row has fewer than `columns`.
    """

    images: Tensor | np.ndarray
    columns: int
    row_labels: Sequence[str] = ()
    column_headers: Sequence[str] = ()
    caption: str = ""
    names: Sequence[str] = ()
    empty: Collection[int] = ()

    def __post_init__(self) -> None:
        as_pixels(self.images)
        if self.columns < 1:
            raise ConfigError(f"pictures {self.caption!r}: expected columns >= 1")
        rows = -(-len(self.images) // self.columns)
        wanted = (("row_labels", self.row_labels, rows),)
        wanted += (("column_headers", self.column_headers, self.columns),)
        wanted += (("names", self.names, len(self.images)),)
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
class Details:
    """Blocks that are folded away behind a summary until the reader opens them."""

    summary: str
    blocks: Sequence["Block"]


Block = Text | Table | Figure | Pictures | Commands | Numbers | Details


@dataclass(frozen=True)
class ReportSection:
    """A section of a report, listed in its table of contents."""

    title: str
    blocks: Sequence[Block]
