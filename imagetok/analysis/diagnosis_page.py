"""The HTML page of a codebook diagnosis."""

from pathlib import Path

import numpy as np

from imagetok.analysis.curves import codebook_figures
from imagetok.analysis.diagnosis import Diagnosis, entropy_maps
from imagetok.evaluation.codebook_health import uncertainty_and_perplexity
from imagetok.quantizers import level_name
from imagetok.reporting import (
    Block,
    Figure,
    Pictures,
    ReportSection,
    Table,
    Text,
    curves,
    usage_histogram,
    write_report,
)
from imagetok.suggestions import counted


def write_page(path: Path, title: str, diagnosis: Diagnosis) -> None:
    """Write a diagnosis as a self-contained HTML file: verdict, measures, code usage, curves."""
    sections = []
    for level, health in enumerate(diagnosis.levels):
        verdict = diagnosis.verdicts[level]
        blocks: list[Block] = [Text(sentence) for sentence in verdict.sentences]
        blocks.append(Table(("measure", "value"), list(diagnosis.rows_of(level).items())))
        figure = usage_histogram(health.counts)
        blocks.append(
            Figure(figure, "uses of each code", "Number of times that each code is used.")
        )
        name = level_name("Codebook", level, len(diagnosis.levels)).replace("_level", ", level ")
        sections.append(ReportSection(f"{name}: {verdict.state}", blocks))
    if diagnosis.entropies:
        rows, caption = entropy_maps(diagnosis.images, diagnosis.entropies)
        maps = np.concatenate(list(rows.values()))
        names = [*diagnosis.classes, *[""] * (len(maps) - len(diagnosis.classes))]
        shown = Pictures(maps, len(diagnosis.images), list(rows), caption=caption, names=names)
        sections.append(ReportSection("Encoder uncertainty", [shown]))
    figures = codebook_figures(diagnosis.history)
    figures += _uncertainty_figures(diagnosis)
    if figures:
        sections.append(ReportSection("Training", figures))
    count = diagnosis.identity["count"]
    measured = f"Measured on {counted(count, 'image')} of {diagnosis.data}"
    what = "imagetok diagnose: how a codebook is used, and whether it collapsed"
    write_report(path, title, sections, what, measured)


def _uncertainty_figures(diagnosis: Diagnosis) -> list[Figure]:
    """Plot uncertainty against perplexity at each evaluation during training (EdVAE, Fig. 3)."""
    figures = []
    for level in range(len(diagnosis.levels)):
        points = uncertainty_and_perplexity(diagnosis.history, level, len(diagnosis.levels))
        if len(points) < 2:
            continue
        uncertainty, perplexity = zip(*points, strict=True)
        named = level_name("perplexity of batches of 128", level, len(diagnosis.levels))
        drawn = curves({"": (perplexity, uncertainty)}, named, "uncertainty K / S")
        correlation = diagnosis.correlation(level)
        summary = "" if correlation is None else f" Pearson correlation: {correlation:.2f}."
        caption = f"One point per evaluation during training, joined in order.{summary}"
        figures.append(Figure(drawn, "uncertainty against perplexity", caption))
    return figures
