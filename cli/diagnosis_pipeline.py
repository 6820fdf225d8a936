"""A tokenizer's codebook diagnosed: measures, a verdict in words, and a page. No click here."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from imagetok.data import ImageDataset
from imagetok.evaluation.diagnosis import (
    COLLAPSED,
    LOGIT_MARKS,
    UNDERUSED,
    LevelHealth,
    Verdict,
    began,
    examine,
    judge,
)
from imagetok.quantizers import level_name
from imagetok.tokenizers import Tokenizer
from imagetok.training.metrics import read_json_lines

CURVES = {
    "batch_perplexity": "perplexity of a batch",
    "batch_usage": "share of the codebook used in a batch",
    "perplexity": "perplexity, held out",
    "codes_used": "codes used, held out",
    "entropy": "entropy of the code probabilities, nats",
    "uncertainty": "Dirichlet uncertainty K / S",
    "max_logit": "largest logit",
    "variance": "variance of the quantizer",
}


class Diagnosis(NamedTuple):
    """What `diagnose` found, per level."""

    levels: tuple[LevelHealth, ...]
    verdicts: tuple[Verdict, ...]
    records: list[dict[str, Any]]
    """What training logged, if the run is at hand."""


def diagnose(tokenizer: Tokenizer, dataset: ImageDataset, run: Path | None) -> Diagnosis:
    """Every level's health and verdict; `run` is its run folder, which tells since when."""
    levels = examine(tokenizer, dataset)
    log = run / "metrics.jsonl" if run is not None else None
    records = read_json_lines(log) if log is not None and log.is_file() else []
    verdicts = []
    for level, health in enumerate(levels):
        share = COLLAPSED if health.perplexity < COLLAPSED * health.num_codes else UNDERUSED
        since = began(records, level, len(levels), share * health.num_codes)
        verdicts.append(judge(health, since))
    return Diagnosis(levels, tuple(verdicts), records)


def as_json(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """One object a level: measures, counts, verdict."""
    return [
        asdict(health)
        | {"counts": health.counts.tolist(), "dead_codes": health.dead_codes}
        | asdict(verdict)
        for health, verdict in zip(diagnosis.levels, diagnosis.verdicts, strict=True)
    ]


def told(health: LevelHealth) -> dict[str, object]:
    """Names and values for people."""
    rows: dict[str, object] = {
        "codes used": f"{health.codes_used} of {health.num_codes}",
        "dead codes": health.dead_codes,
        "nearly dead codes": health.rare_codes,
        "perplexity": health.perplexity,
        "share of the most used": health.top_share,
        "norms, least": health.norms[0],
        "norms, median": health.norms[1],
        "norms, largest": health.norms[2],
    }
    if health.entropy is not None:
        rows["entropy, nats"] = f"{health.entropy:.3f} +- {health.entropy_std:.3f}"
    if health.uncertainty is not None:
        rows["uncertainty K / S"] = health.uncertainty
    for mark, share in zip(LOGIT_MARKS, health.logits_above, strict=False):
        rows[f"largest logit above {mark:.0f}"] = f"{share:.1%}"
    return rows


def write_page(path: Path, title: str, diagnosis: Diagnosis) -> None:
    """The diagnosis as one self-contained HTML file: verdict, measures, code usage, curves."""
    from imagetok.report import Block, Figure, Section, Table, Text, usage_histogram, write_report

    sections = []
    for level, health in enumerate(diagnosis.levels):
        verdict = diagnosis.verdicts[level]
        blocks: list[Block] = [Text(sentence) for sentence in verdict.sentences]
        blocks.append(Table(("measure", "value"), list(told(health).items())))
        figure = usage_histogram(health.counts)
        blocks.append(Figure(figure, "uses of each code", "How often each code is used."))
        name = level_name("Codebook", level, len(diagnosis.levels)).replace("_level", ", level ")
        sections.append(Section(f"{name}: {verdict.state}", blocks))
    figures = _curves(diagnosis.records, len(diagnosis.levels))
    if figures:
        sections.append(Section("Over training", figures))
    write_report(path, title, sections)


def _curves(records: Sequence[dict[str, Any]], num_levels: int) -> list[Any]:
    from imagetok.report import Figure, curves

    figures = []
    for measure, label in CURVES.items():
        series = {}
        for level in range(num_levels):
            name = level_name(measure, level, num_levels)
            points = [(r["step"], r[name]) for r in records if name in r]
            if len(points) > 1:
                steps, values = zip(*points, strict=True)
                series[f"level {level}"] = (steps, values)
        if series:
            figures.append(Figure(curves(series, "step", label), f"{label} over the steps"))
    return figures
