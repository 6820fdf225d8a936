"""Rendering of sections to one HTML file without external resources."""

import base64
import math
import numbers
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, assert_never

import jinja2
from PIL import Image

from imagetok.durable import write_bytes
from imagetok.pictures import as_pixels, png_bytes
from imagetok.reporting.sections import (
    Block,
    Commands,
    Figure,
    Numbers,
    Pictures,
    ReportSection,
    Table,
    Text,
)

_PICTURE_WIDTH = 96  # largest width in css pixels to which small images are enlarged
_ROW_WIDTH = 720  # largest width of a row of pictures in css pixels


def write_report(
    path: Path, title: str, sections: Sequence[ReportSection], subtitle: str = ""
) -> None:
    """Write a report as one HTML file, durably; equal sections result in equal bytes."""
    write_bytes(path, render(title, sections, subtitle).encode())


def render(title: str, sections: Sequence[ReportSection], subtitle: str = "") -> str:
    """Render a report to HTML; all texts are escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("imagetok.reporting").joinpath("template.html").read_text("utf-8")
    parts = [
        {
            "anchor": f"section-{i}",
            "title": section.title,
            "blocks": [_view(b) for b in section.blocks],
        }
        for i, section in enumerate(sections, start=1)
    ]
    page = environment.from_string(source)
    return page.render(title=title, subtitle=subtitle, sections=parts) + "\n"


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


def _view(block: Block) -> dict[str, Any]:
    """Convert a block to the variables of the template."""
    match block:
        case Text():
            return {"kind": "text", "paragraph": block.paragraph}
        case Table():
            return {"kind": "table", **_table(block)}
        case Figure():
            source = _data_uri(block.image, str(block.media_type))
            return {"kind": "figure", "source": source, "alt": block.alt, "caption": block.caption}
        case Pictures():
            return {"kind": "pictures", **_pictures(block)}
        case Commands():
            return {"kind": "commands", "commands": block.commands, "caption": block.caption}
        case Numbers():
            tiles = [(label, show(value), why) for label, value, why in block.numbers]
            return {"kind": "numbers", "tiles": tiles}
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
        [(show(c), is_number) for c, is_number in zip(row, numeric, strict=True)]
        for row in table.rows
    ]
    header = list(zip(table.header, numeric, strict=True))
    return {"header": header, "rows": rows, "caption": table.caption}


def _pictures(pictures: Pictures) -> dict[str, Any]:
    pixels = as_pixels(pictures.images)
    height, width = pixels.shape[2:]
    columns = pictures.columns
    scale = max(1, min(_PICTURE_WIDTH // width, _ROW_WIDTH // (width * columns)))
    sources = []
    for image in pixels:
        layout = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        sources.append(_data_uri(png_bytes(Image.fromarray(layout)), "image/png"))
    rows = []
    for number, start in enumerate(range(0, len(sources), columns)):
        label = pictures.row_labels[number] if pictures.row_labels else ""
        cells = []
        for column, source in enumerate(sources[start : start + columns]):
            header = pictures.column_headers[column] if pictures.column_headers else ""
            named = ", ".join(word for word in (label, header) if word)
            cells.append((source, named or f"image {start + column + 1}"))
        rows.append({"label": label, "cells": cells})
    return {
        "rows": rows,
        "is_labelled": bool(pictures.row_labels),
        "headers": pictures.column_headers,
        "columns": columns,
        "width": width,
        "height": height,
        "shown_width": width * scale,
        "is_enlarged": scale > 1,
        "caption": pictures.caption,
    }


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
