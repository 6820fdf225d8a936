"""Reports: sections of text, tables, figures and pictures become one self-contained HTML file.

Names load on first use, so that training can save a grid of pictures without matplotlib or jinja2.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.report.figures import bars, curves, usage_histogram
    from imagetok.report.page import render, write_report
    from imagetok.report.pictures import grid, heat, overlay, save_grid, side_by_side
    from imagetok.report.sections import (
        Block,
        Commands,
        Figure,
        Numbers,
        Pictures,
        Section,
        Table,
        Text,
    )

__all__ = [
    "Block",
    "Commands",
    "Figure",
    "Numbers",
    "Pictures",
    "Section",
    "Table",
    "Text",
    "bars",
    "curves",
    "grid",
    "heat",
    "overlay",
    "render",
    "save_grid",
    "side_by_side",
    "usage_histogram",
    "write_report",
]

_HOME = {
    **dict.fromkeys(("bars", "curves", "usage_histogram"), "figures"),
    **dict.fromkeys(("render", "write_report"), "page"),
    **dict.fromkeys(("grid", "heat", "overlay", "save_grid", "side_by_side"), "pictures"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'sections')}"), name)
