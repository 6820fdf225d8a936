"""Reports: render sections of text, tables, figures and pictures to a self-contained HTML file.

Names are imported on first use, so that sections can be built without matplotlib or jinja2.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.reporting.figures import bars, curves, usage_histogram
    from imagetok.reporting.page import render, write_report
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
        glossary,
    )

__all__ = [
    "Block",
    "Commands",
    "Details",
    "Figure",
    "Meanings",
    "Numbers",
    "Pictures",
    "ReportSection",
    "Table",
    "Text",
    "bars",
    "curves",
    "glossary",
    "render",
    "usage_histogram",
    "write_report",
]

_HOME = {
    **dict.fromkeys(("bars", "curves", "usage_histogram"), "figures"),
    **dict.fromkeys(("render", "write_report"), "page"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'sections')}"), name)
