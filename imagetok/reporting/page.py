"""Rendering of sections to one HTML file without external resources."""

import base64
import math
import numbers
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, assert_never

import jinja2
from markupsafe import Markup
from PIL import Image

from imagetok.durable import write_bytes
from imagetok.pictures import as_pixels, png_bytes
from imagetok.reporting.sections import (
    Block,
    Commands,
    Details,
    Figure,
    Meanings,
    Numbers,
    Pictures,
    ReportSection,
    Table,
    Text,
)

_PICTURE_WIDTH = 96  # largest width in css pixels to which small images are enlarged
_ROW_WIDTH = 768  # width of a row of pictures in css pixels that are not shrunk below the former


def write_report(
    path: Path,
    title: str,
    sections: Sequence[ReportSection],
    subtitle: str = "",
    measured: str = "",
) -> None:
    """Write a report as one HTML file, durably; equal sections result in equal bytes.

    The arguments are those of `render`.
    """
    write_bytes(path, render(title, sections, subtitle, measured).encode())


def render(
    title: str, sections: Sequence[ReportSection], subtitle: str = "", measured: str = ""
) -> str:
    """Render a report to HTML; all texts are escaped.

    subtitle: one line on what the page is. measured: one line on what was measured on which data.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    parts = [
        {
            "anchor": f"section-{i}",
            "title": section.title,
            "blocks": _views(section.blocks),
        }
        for i, section in enumerate(sections, start=1)
    ]
    page = environment.from_string(_resource("template.html"))
    style = Markup(_resource("style.css"))
    head = {"title": title, "subtitle": subtitle, "measured": measured}
    return page.render(**head, style=style, sections=parts) + "\n"


def _resource(name: str) -> str:
    return resources.files("imagetok.reporting").joinpath(name).read_text("utf-8")


def show(value: object) -> str:
    """Format a value for display: 12,345, 0.1235, yes, or a dash for None."""
    match value:
        case None:
            return "\N{EN DASH}"
        case bool():
            return "yes" if value else "no"
        case numbers.Integral():
            return f"{int(value):,}"
        case numbers.Real():
            return _show_real(float(value))
        case _:
            return str(value)


def _show_real(number: float) -> str:
    if not math.isfinite(number):
        return str(number)
    # Four digits, but no exponent for moderate values: 123,456 instead of 1.235e+05.
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e9 else f"{number:.4g}"


def _views(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Convert blocks to the variables of the template; adjacent figures become one group."""
    views: list[dict[str, Any]] = []
    for is_figure, group in groupby(blocks, key=lambda block: isinstance(block, Figure)):
        found = [_view(block) for block in group]
        views += [{"kind": "figures", "figures": found}] if is_figure else found
    return views


def _view(block: Block) -> dict[str, Any]:
    match block:
        case Text():
            return {"kind": "text", "paragraph": block.paragraph}
        case Table():
            return {"kind": "table", **_table(block)}
        case Figure():
            source = _data_uri(block.image, "image/svg+xml")
            return {"source": source, "alt": block.alt, "caption": block.caption}
        case Pictures():
            return {"kind": "pictures", **_pictures(block)}
        case Commands():
            return {"kind": "commands", "commands": block.commands, "caption": block.caption}
        case Numbers():
            tiles = [(label, show(value), why) for label, value, why in block.numbers]
            return {"kind": "numbers", "tiles": tiles}
        case Meanings():
            return {"kind": "meanings", "meanings": block.meanings}
        case Details():
            return {"kind": "details", "summary": block.summary, "blocks": _views(block.blocks)}
        case _:
            assert_never(block)


def _table(table: Table) -> dict[str, Any]:
    columns = [[row[i] for row in table.rows] for i in range(len(table.header))]
    numeric = [
        any(cell is not None for cell in column)
        and all(cell is None or isinstance(cell, numbers.Real) for cell in column)
        for column in columns
    ]
    rows = [
        [
            (show(cell), numeric[column], (row, column) in table.best)
            for column, cell in enumerate(cells)
        ]
        for row, cells in enumerate(table.rows)
    ]
    header = list(zip(table.header, numeric, strict=True))
    return {"header": header, "rows": rows, "caption": table.caption}


def _pictures(pictures: Pictures) -> dict[str, Any]:
    pixels = as_pixels(pictures.images)
    height, width = pixels.shape[2:]
    columns = pictures.columns
    scale = max(1, min(_PICTURE_WIDTH // width, _ROW_WIDTH // (width * columns)))
    is_labelled, is_headed = any(pictures.row_labels), any(pictures.column_headers)
    sources = []
    for image in pixels:
        layout = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        sources.append(_data_uri(png_bytes(Image.fromarray(layout)), "image/png"))
    rows = [
        {
            "label": pictures.row_labels[number] if pictures.row_labels else "",
            "cells": [
                _cell(pictures, i, sources[i])
                for i in range(start, min(start + columns, len(sources)))
            ],
        }
        for number, start in enumerate(range(0, len(sources), columns))
    ]
    return {
        "rows": rows,
        "is_labelled": is_labelled,
        "has_fixed_columns": is_labelled or is_headed,
        "headers": pictures.column_headers if is_headed else (),
        "columns": columns,
        "width": width,
        "height": height,
        "shown_width": min(width * scale, max(_PICTURE_WIDTH, _ROW_WIDTH // columns)),
        "is_enlarged": scale > 1,
        "caption": pictures.caption,
    }


def _cell(pictures: Pictures, i: int, source: str) -> dict[str, str]:
    """Return image i of a grid, and a text that describes it."""
    row, column = divmod(i, pictures.columns)
    label = pictures.row_labels[row] if pictures.row_labels else ""
    header = pictures.column_headers[column] if pictures.column_headers else ""
    alt = ", ".join(filter(None, (label, header))) or f"image {i + 1}"
    return {"source": "" if i in pictures.empty else source, "alt": alt}


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
