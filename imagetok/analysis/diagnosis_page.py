"""The HTML page of a codebook diagnosis."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from imagetok.analysis.curves import codebook_figures
from imagetok.analysis.diagnosis import Diagnosis, entropy_maps
from imagetok.data.unreadable import left_out_words
from imagetok.evaluation.codebook_health import uncertainty_and_perplexity
from imagetok.evaluation.meanings import MEANINGS
from imagetok.quantizers import level_name
from imagetok.reporting import (
    Block,
    Figure,
    Pictures,
    ReportSection,
    Table,
    Text,
    curves,
    glossary,
    usage_histogram,
    write_report,
)
from imagetok.suggestions import counted

_MEANINGS = {
    "codes used": MEANINGS["codes_used"],
    "dead codes": MEANINGS["dead_codes"],
    "rarely used codes": "codes that occur, but far less often than if all were used equally",
    "perplexity, whole dataset": MEANINGS["perplexity"],
    "perplexity, mean over whole": MEANINGS["perplexity_batch128"],
    "perplexity, mean over batches": MEANINGS["perplexity_batch32"],
    "share of the most used": "share of all code positions that have this code",
    "norms of": "Euclidean lengths; code vectors far from all encoder outputs are never chosen",
    "entropy of": f"{MEANINGS['entropy']}; ± {MEANINGS['entropy_std']}",
    "mean uncertainty": MEANINGS["uncertainty"],
    "variance": MEANINGS["variance"],
    "positions with": "share of code positions; above 18 the usual float32 form of the Dirichlet "
    "KL has no gradient",
    "codes changed": "share of code positions with another code than at that checkpoint",
    "correlation": "Pearson correlation over the evaluations of the training run",
}
"""Beginning of a measure's label -> its meaning."""


def _meanings(labels: Iterable[str]) -> dict[str, str]:
    """Return the meaning of each label that has one."""
    return {
        label: meaning
        for label in labels
        for beginning, meaning in _MEANINGS.items()
        if label.startswith(beginning)
    }


def write_page(path: Path, title: str, diagnosis: Diagnosis) -> None:
    """Write a diagnosis as a self-contained HTML file: verdict, measures, code usage, curves."""
    sections = []
    for level, health in enumerate(diagnosis.levels):
        verdict = diagnosis.verdicts[level]
        blocks: list[Block] = [Text(sentence) for sentence in verdict.sentences]
        rows = diagnosis.rows_of(level)
        blocks.append(Table(("measure", "value"), list(rows.items())))
        blocks += glossary(_meanings(rows))
        figure = usage_histogram(health.counts)
        blocks.append(
            Figure(figure, "uses of each code", "Number of times that each code is used.")
        )
        name = level_name("Codebook", level, len(diagnosis.levels)).replace("_level", ", level ")
        sections.append(ReportSection(f"{name}: {verdict.state}", blocks))
    if diagnosis.entropies:
        rows, caption = entropy_maps(diagnosis.images, diagnosis.entropies)
        maps = np.concatenate(list(rows.values()))
        columns = len(diagnosis.images)
        shown = Pictures(maps, columns, list(rows), diagnosis.classes, caption)
        sections.append(ReportSection("Encoder uncertainty", [shown]))
    figures = codebook_figures(diagnosis.history)
    figures += _uncertainty_figures(diagnosis)
    if figures:
        sections.append(ReportSection("Training", figures))
    count = diagnosis.identity["count"]
    measured = f"Measured on {counted(count, 'image')} of {diagnosis.data}"
    measured += left_out_words(len(diagnosis.skipped))
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
