"""Training curves of one or several runs, drawn from their logs."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from imagetok.reporting import Figure, curves


class Curve(NamedTuple):
    """A figure of training: which logged measures it shows, and for which split."""

    label: str
    names: Mapping[tuple[str, str], str]
    """(split, measure name without its level) -> label of the line."""
    caption: str
    is_log: bool = False
    deviations: Mapping[tuple[str, str], str] = {}
    """The same for standard deviations, shaded around the lines with the same labels."""


TRAIN, TEST = "training batches", "held out"
_CODEBOOK = (
    Curve(
        "perplexity",
        {("train", "batch_perplexity"): TRAIN, ("test", "perplexity"): TEST},
        "How evenly codes are used: the codebook size K if all are used equally, 1 if only one is "
        "used. A batch holds few codes, often sampled with noise, so its perplexity differs from "
        "that of the held-out split.",
    ),
    Curve("codes used, held out", {("test", "codes_used"): TEST}, "Number of codes that occur."),
    Curve(
        "entropy of the code probabilities, nats",
        {("test", "entropy"): TEST},
        "Mean over code positions, with a band of one standard deviation. High entropy means that "
        "the encoder is undecided between codes.",
        deviations={("test", "entropy_std"): TEST},
    ),
    Curve(
        "uncertainty K / S",
        {("test", "uncertainty"): TEST},
        "Codebook size over the sum of the concentrations of the encoder's Dirichlet distribution: "
        "1 without evidence, near 0 with much evidence.",
        True,
    ),
    Curve(
        "logits",
        {("test", "max_logit"): "largest", ("test", "top_logit"): "mean of the largest"},
        "On the held-out split. In EdVAE, the usual float32 form of the Dirichlet KL has no "
        "gradient above 18.",
    ),
    Curve(
        "variance of the quantizer",
        {("test", "variance"): TEST},
        "Variance of the stochastic quantization; it usually falls during training.",
        True,
    ),
)
TOKENIZER_CURVES = (
    Curve(
        "mean squared error",
        {("train", "mse"): TRAIN, ("test", "mse"): TEST},
        "For pixels in [0, 1]. The held-out error is measured with hard codes; some methods mix "
        "codes during training.",
        True,
    ),
    Curve(
        "pixel accuracy",
        {("train", "pixel_accuracy"): TRAIN, ("test", "pixel_accuracy"): TEST},
        "Share of pixels that are reconstructed with the right class.",
    ),
    *_CODEBOOK,
)
LOSS = Curve("training loss", {("train", "loss"): TRAIN}, "Sum of all weighted loss terms.")


def curve_of_term(term: str) -> Curve:
    """Return the curve of one loss term over training, and of the measure with its name if any."""
    summary = f"Loss term {term!r}, without its weight."
    return Curve(term, {("train", term): TRAIN, ("test", term): TEST}, summary, True)


def codebook_figures(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Draw the codebook measures that one run logged, over training steps."""
    return figures_of({"": records}, _CODEBOOK)


def figures_of(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Sequence[Curve]
) -> list[Figure]:
    """Draw every curve of `wanted` for which some log has two points or more.

    A single evaluation is no curve: its measures are in the tables.

    logs: the records of metrics.jsonl by the name of the run.
    """
    figures = []
    names = {run: dict.fromkeys(chain.from_iterable(records)) for run, records in logs.items()}
    for curve in wanted:
        series = dict(_series(logs, names, curve))
        if any(len(steps) > 1 for steps, _ in series.values()):
            shades = _series(logs, names, curve._replace(names=curve.deviations))
            bands = {
                name: deviations
                for name, (steps, deviations) in shades
                if name in series and steps == series[name][0]
            }
            drawn = curves(series, "step", curve.label, log=curve.is_log, bands=bands)
            figures.append(Figure(drawn, f"{curve.label} over training steps", curve.caption))
    return figures


def _series(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Mapping[str, Iterable[str]],
    curve: Curve,
) -> Iterator[tuple[str, tuple[list[int], list[float]]]]:
    """Yield the label and the (steps, values) of every line; names: the measures of each run."""
    having = {
        name: records
        for name, records in logs.items()
        if any(_levels(names[name], measure) for _, measure in curve.names)
    }
    for run, records in having.items():
        for (split, measure), summary in curve.names.items():
            for name in _levels(names[run], measure):
                points = [
                    (r["step"], r[name])
                    for r in records
                    if r.get("split") == split and r.get(name) is not None
                ]
                if points and (not curve.is_log or any(value > 0 for _, value in points)):
                    level = re.search(r"_level(\d+)$", name) if name != measure else None
                    words = [run] if len(having) > 1 else []
                    words += [summary] + ([f"level {level.group(1)}"] if level else [])
                    steps, values = zip(*points, strict=True)
                    yield ", ".join(words), (list(steps), list(values))


def _levels(names: Iterable[str], measure: str) -> list[str]:
    """Return the logged names of a measure: its own, or one per level."""
    pattern = re.compile(rf"{re.escape(measure)}(_level\d+)?")
    return [name for name in names if pattern.fullmatch(name)]
