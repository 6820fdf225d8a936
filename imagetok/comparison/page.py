"""The HTML page of a comparison."""

from pathlib import Path

import torch

from imagetok.comparison.figures import Reconstructions, measures_drawings
from imagetok.comparison.results import Comparison
from imagetok.comparison.sweep_figure import sweep_drawings
from imagetok.comparison.table import best_of, meanings_of_columns, notes, table_of
from imagetok.reporting import (
    Commands,
    Figure,
    Pictures,
    ReportSection,
    Table,
    Text,
    glossary,
    write_report,
)
from imagetok.suggestions import counted

_FIGURES = (
    "Lines are means over seeds, with a band from minimum to maximum. Bars show mean and standard "
    "deviation at the last step. All measures use hard codes of the test set."
)
_BEST = (
    "Marked: the best mean of a row, and means that are printed alike, where one direction is "
    "better and not all methods are alike. Codebook use is compared among codebooks of one size."
)


def write_page(path: Path, result: Comparison, shown: Reconstructions) -> None:
    """Write a comparison as a self-contained HTML file: pictures, measures, curves, command."""
    measured, *details = notes(result)
    training = [
        Figure(svg, f"{name} of every method") for name, svg in measures_drawings(result).items()
    ]
    measures = [_table(result, details), *glossary(meanings_of_columns(result))]
    sections = [
        _reconstructions(shown),
        ReportSection("Measures", measures),
        ReportSection("Training", [Text(_FIGURES), *training]),
    ]
    sweep = [Figure(svg, name) for name, svg in sweep_drawings(result).items()]
    if sweep:
        sections.append(ReportSection("Codebook size", sweep))
    sections.append(ReportSection("Command", [Commands([result.command])]))
    title = f"{counted(len(result.methods), 'tokenizer')} on {result.data}"
    names = ", ".join(method.name for method in result.methods)
    write_report(path, title, sections, f"imagetok compare: {names}", measured)


def _reconstructions(shown: Reconstructions) -> ReportSection:
    text = "Test images and their reconstructions with the first finished seed."
    return ReportSection("Reconstructions", [Text(text), reconstruction_pictures(shown)])


def reconstruction_pictures(shown: Reconstructions) -> Pictures:
    """Return the originals above their reconstructions, one row per method."""
    rows, classes, _ = shown
    images = torch.cat(list(rows.values()))
    return Pictures(images, len(images) // len(rows), list(rows), classes)


def _table(result: Comparison, details: list[str]) -> Table:
    """Build the table, with methods as columns: it would be too wide for a page otherwise."""
    header, methods = table_of(result)
    rows = [
        [cell.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}") for cell in row]
        for row in zip(*[header, *methods], strict=True)
    ]
    best = best_of(result)
    marked = {(i, 1 + method) for i, row in enumerate(rows[1:]) for method in best.get(row[0], ())}
    return Table(["", *rows[0][1:]], rows[1:], "\n".join([_BEST, *details]), marked)
