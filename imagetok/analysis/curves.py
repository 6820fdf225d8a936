"""What training logged, as curves of one run or of several."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from imagetok.reporting import Figure, curves


class Curve(NamedTuple):
    """One figure: what it shows of each split, by the measure's name without its level."""

    label: str
    names: Mapping[tuple[str, str], str]
    """(split, measure) -> what the line is called."""
    caption: str
    is_log: bool = False
    deviations: Mapping[tuple[str, str], str] = {}
    """The same for standard deviations, which are shaded around the lines of these names."""


TRAIN, TEST = "training batches", "held out"
_CODEBOOK = (
    Curve(
        "perplexity",
        {("train", "batch_perplexity"): TRAIN, ("test", "perplexity"): TEST},
        "How evenly codes are used: K if all are used alike, 1 if one is used alone. A batch holds "
        "few codes and is often drawn with noise, so the two levels differ.",
    ),
    Curve("codes used, held out", {("test", "codes_used"): TEST}, "That occur at least once."),
    Curve(
        "entropy of the code probabilities, nats",
        {("test", "entropy"): TEST},
        "How undecided the encoder is: mean over positions, and one deviation to both sides.",
        deviations={("test", "entropy_std"): TEST},
    ),
    Curve(
        "uncertainty K / S",
        {("test", "uncertainty"): TEST},
        "Of the encoder's Dirichlet: 1 without any evidence, towards 0 with much.",
        True,
    ),
    Curve(
        "logits",
        {("test", "max_logit"): "largest", ("test", "top_logit"): "mean of the largest"},
        "On the held-out split. Above 18 the usual float32 form of the Dirichlet KL has no "
        "gradient.",
    ),
    Curve(
        "variance of the quantizer",
        {("test", "variance"): TEST},
        "How sharply codes are chosen; it falls as training goes on.",
        True,
    ),
)
TOKENIZER_CURVES = (
    Curve(
        "mean squared error",
        {("train", "mse"): TRAIN, ("test", "mse"): TEST},
        "On pixels in [0, 1]. The held-out error is that of hard codes; some methods mix codes in "
        "training.",
        True,
    ),
    Curve(
        "pixel accuracy",
        {("train", "pixel_accuracy"): TRAIN, ("test", "pixel_accuracy"): TEST},
        "The share of pixels whose class comes back.",
    ),
    *_CODEBOOK,
)
LOSS = Curve("training loss", {("train", "loss"): TRAIN}, "The sum of all weighted terms.")


def curve_of_term(term: str) -> Curve:
    """A named term of the loss over training."""
    summary = f"Loss term {term!r}, before its weight, on training batches."
    return Curve(term, {("train", term): TRAIN}, summary, True)


def codebook_figures(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """How one run came to use its codes, as far as its log tells."""
    return figures_of({"": records}, _CODEBOOK)


def figures_of(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], wanted: Sequence[Curve]
) -> list[Figure]:
    """One for every curve that the logs have points for; logs: by the name of the run."""
    figures = []
    names = {run: dict.fromkeys(chain.from_iterable(records)) for run, records in logs.items()}
    for curve in wanted:
        series = dict(_series(logs, names, curve))
        if series:
            shades = _series(logs, names, curve._replace(names=curve.deviations))
            bands = {
                name: deviations
                for name, (steps, deviations) in shades
                if name in series and steps == series[name][0]
            }
            drawn = curves(series, "step", curve.label, log=curve.is_log, bands=bands)
            figures.append(Figure(drawn, f"{curve.label} over the steps", curve.caption))
    return figures


def _series(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Mapping[str, Iterable[str]],
    curve: Curve,
) -> Iterator[tuple[str, tuple[list[int], list[float]]]]:
    """Name and points of every line of a figure; names: what each run logged."""
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
    """The measure's name, or those of its levels, as far as they were logged."""
    pattern = re.compile(rf"{re.escape(measure)}(_level\d+)?")
    return [name for name in names if pattern.fullmatch(name)]
