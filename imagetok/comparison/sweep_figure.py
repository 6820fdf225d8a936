"""Figure of perplexity and error against codebook size and code dimension."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from imagetok.comparison.results import Comparison, MethodResult
from imagetok.evaluation.earlier_measures import BATCH_PERPLEXITY, BATCH_PERPLEXITY_ALL
from imagetok.reporting.figures import COLOURS, DASHES, drawing, panels

_SIZES = {"num_codes": "codebook size K", "code_dim": "code dimension D"}


class _Point(NamedTuple):
    size: int
    method: MethodResult


def sweep_figure(result: Comparison) -> bytes | None:
    """Draw perplexity and MSE against K and against D as PNG (EdVAE paper, Fig. 6).

    The perplexity is the mean over batches of 128 images, as in the paper. A line joins the
    finished methods of one quantizer with the same other size; error bars are standard deviations
    over seeds. Returns None if no quantizer was trained with several sizes.
    """
    draws = _draws(result, legends=("perplexity",))
    return panels(list(draws.values()), width=4.6 * len(draws), height=4.0) if draws else None


def sweep_drawings(result: Comparison) -> dict[str, bytes]:
    """Draw the panels of `sweep_figure` one by one as SVG, by the name of what they show."""
    draws = _draws(result, legends=("perplexity", "mean squared error"))
    return {name: drawing(draw, height=3.6) for name, draw in draws.items()}


def _draws(result: Comparison, legends: Sequence[str]) -> dict[str, Callable[[Axes], None]]:
    """Return what draws each panel, by its name; legends: measures whose panel has a legend."""
    draws: dict[str, Callable[[Axes], None]] = {}
    perplexity, ylabel = _perplexity(result.methods)
    for key, label in _SIZES.items():
        lines = _lines(result.methods, key, perplexity)
        measures = {
            "perplexity": (perplexity, 1.0, ylabel),
            "mean squared error": ("mse", 1e3, "test MSE x 10^3"),
        }
        for name, (measure, scale, its) in measures.items() if lines else ():
            panel = _panel(lines, measure, scale, label, its, key, name in legends)
            draws[f"{name} against {label}"] = panel
    return draws


def _perplexity(methods: Sequence[MethodResult]) -> tuple[str, str]:
    """Return name and label of the perplexity; an earlier version's if there is no other."""
    if any(BATCH_PERPLEXITY in method.mean for method in methods):
        return BATCH_PERPLEXITY, "test perplexity, batches of 128"
    return BATCH_PERPLEXITY_ALL, "test perplexity, all batches of 128"


def _lines(methods: Sequence[MethodResult], key: str, perplexity: str) -> dict[str, list[_Point]]:
    """Return the points of each line by its name; lines with a single size are left out."""
    lines: dict[str, list[_Point]] = {}
    for method in methods:
        quantizer = method.config.get("tokenizer", {}).get("quantizer") or {}
        if key in quantizer and {perplexity, "mse"} <= method.mean.keys():
            others = [f"{k} {quantizer[k]}" for k in _SIZES if k != key and k in quantizer]
            name = ", ".join([quantizer["kind"], *others])
            lines.setdefault(name, []).append(_Point(quantizer[key], method))
    return {
        name: sorted(points, key=lambda point: point.size)
        for name, points in lines.items()
        if len({point.size for point in points}) > 1
    }


def _panel(
    lines: Mapping[str, Sequence[_Point]],
    measure: str,
    scale: float,
    xlabel: str,
    ylabel: str,
    key: str,
    has_legend: bool,
) -> Callable[[Axes], None]:
    sizes = sorted({point.size for points in lines.values() for point in points})

    def draw(axes: Axes) -> None:
        for i, (name, points) in enumerate(lines.items()):
            x = np.array([point.size for point in points])
            y = scale * np.array([point.method.mean[measure] for point in points])
            std = scale * np.array([point.method.std.get(measure, 0.0) for point in points])
            style = {"color": COLOURS[i % len(COLOURS)], "capsize": 3, "marker": "o"}
            dash = DASHES[i // len(COLOURS) % len(DASHES)]
            axes.errorbar(x, y, yerr=std, label=name, linestyle=dash, **style)
        if measure != "mse" and key == "num_codes":
            axes.plot(sizes, sizes, color="#7a828e", linestyle=":", label="equal use of all codes")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if has_legend:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0.0)

    return draw
