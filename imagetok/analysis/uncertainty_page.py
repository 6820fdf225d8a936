"""The HTML page of `uncertainty`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imagetok.analysis.uncertainty import NUM_CANDIDATES, UncertaintyStudy, measure_label
from imagetok.reporting import (
    Block,
    Figure,
    Pictures,
    ReportSection,
    Table,
    Text,
    curves,
    write_report,
)

_COLUMNS = (
    "Spearman: rank correlation with the reconstruction error, over code positions or over images. "
    "AUROC: how well the mean of the measure over an image separates shifted images from the data; "
    "0.5 is chance level. The last row is for the reconstruction error itself."
)


def write_page(path: Path, studies: Sequence[UncertaintyStudy]) -> None:
    """Write the studies as a self-contained HTML file."""
    methods = [study.method for study in studies]
    titles = [
        study.method
        if methods.count(study.method) == 1
        else f"{study.method} {study.fingerprint[:6]}"
        for study in studies
    ]
    sections = [_error_by_bin(studies, titles)]
    sections += [_section(study, title) for study, title in zip(studies, titles, strict=True)]
    what = "imagetok uncertainty: whether uncertainty predicts errors, and detects other images"
    measured = dict.fromkeys(study.image_counts() for study in studies)
    write_report(
        path,
        "Uncertainty and reconstruction error",
        sections,
        what,
        f"Measured on {', '.join(measured)}",
    )


def _error_by_bin(studies: Sequence[UncertaintyStudy], titles: Sequence[str]) -> ReportSection:
    """Plot the mean error of ten bins of code positions, ordered by uncertainty."""
    lines = {
        f"{title}: {measure_label(name)}": (np.arange(1, len(found.error) + 1), found.error)
        for study, title in zip(studies, titles, strict=True)
        for name, found in study.binned_errors.items()
    }
    blocks: list[Block] = [
        Text(
            "Code positions are sorted by uncertainty into ten bins, the most certain first. If "
            "uncertainty predicts the reconstruction error, the curve rises from left to right."
        ),
        Figure(
            curves(lines, "bin, by increasing uncertainty", "mean squared error x 10^3"),
            "mean squared error per bin of uncertainty",
        ),
    ]
    return ReportSection("Error by uncertainty", blocks)


def _section(study: UncertaintyStudy, title: str) -> ReportSection:
    """Build the section of one tokenizer: its measures and its most uncertain images."""
    rows = study.table()
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [(name, *(row.get(column) for column in columns)) for name, row in rows.items()]
    among = min(NUM_CANDIDATES, study.identities[study.data]["count"])
    blocks: list[Block] = [
        Text(f"{study.tokenizer} on {study.image_counts()}."),
        Text(study.conclusion()),
        Table(("measure", *columns), cells, _COLUMNS),
        Pictures(
            np.concatenate(list(study.shown.values())),
            len(next(iter(study.shown.values()))),
            row_labels=list(study.shown),
            column_headers=study.classes,
            caption=f"The images with the highest mean uncertainty among the first {among:,}. "
            "Each row of maps is scaled from its smallest to its largest value.",
        ),
    ]
    return ReportSection(title, blocks)
