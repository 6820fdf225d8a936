"""Plots of papers' figures: measures against a setting or over training, and t-SNE maps."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from imagetok import seeding
from imagetok.comparison.plan import Trial
from imagetok.comparison.results import TrialResult
from imagetok.config import value_at
from imagetok.data import ImageDataset, open_images
from imagetok.evaluation.embedding import neighbour_accuracy, tsne
from imagetok.images import from_stored
from imagetok.named_configs.sheets import SheetColumn
from imagetok.reporting import Figure, Pictures
from imagetok.reporting.figures import (
    COLOURS,
    DASHES,
    INK,
    drawing,
    legend_above,
    logarithmic,
    panels,
)
from imagetok.tokenizers import Autoencoder
from prior.papers.record import NumberTable, value_of
from prior.papers.stages import entropies
from prior.papers.trials import FigurePlan, PlannedRun

_MOST_IN_MAP = 2000
"""Training images in a t-SNE map, as in `imagetok explore`."""


class Drawing(NamedTuple):
    """A drawing as one file and for the page, and its numbers that are in no table."""

    png: bytes
    blocks: Sequence[Figure | Pictures]
    """The same for the page, which can be narrow or dark: its plots one by one, or its pictures."""
    numbers: NumberTable


class Drawn(NamedTuple):
    """What a drawing on one data set is made of."""

    plan: FigurePlan
    data: str
    models: Mapping[Trial, Autoencoder]
    """Those of all trials that finished."""
    results: Mapping[Trial, TrialResult]
    check: Callable[[], None]
    """Called often; may raise StoppedError."""

    @property
    def runs(self) -> list[PlannedRun]:
        return self.plan.runs_on(self.data)

    @property
    def first(self) -> dict[str, Trial]:
        """Method -> its first seed that finished."""
        return {
            planned.run.what: trial
            for planned in self.runs
            if (trial := next((t for t in planned.trials if t in self.models), None)) is not None
        }

    def steps_per_unit(self) -> int:
        """Return the number of steps in the unit that training is counted in."""
        if self.plan.figure.sheet.unit == "step":
            return 1
        return -(-len(self.images("train")) // self.runs[0].config.train.batch_size)

    def images(self, split: str) -> ImageDataset:
        """Open the training or test images."""
        its = self.plan.images[self.data]
        return open_images(its.data, split, its.image)


def lines(drawn: Drawn) -> Drawing:
    """Draw each column against each setting on the x axis, on logarithmic axes."""
    sheet = drawn.plan.figure.sheet
    draws = {
        f"{title} against {label}": _line_panel(drawn, key, label, title)
        for key, label in sheet.x.items()
        for title in sheet.columns
    }
    return _plotted(draws, 4.6, 4.4)


def _plotted(
    draws: Mapping[str, Callable[[Axes], None]],
    width: float,
    height: float,
    numbers: NumberTable | None = None,
) -> Drawing:
    """Draw named plots: side by side as a file, `width` x `height` inches each, and one by one."""
    png = panels(list(draws.values()), width * len(draws), height)
    figures = [Figure(drawing(draw, height=3.6), name) for name, draw in draws.items()]
    return Drawing(png, figures, numbers or {})


def _line_panel(drawn: Drawn, key: str, label: str, title: str) -> Callable[[Axes], None]:
    sheet = drawn.plan.figure.sheet
    column = sheet.columns[title]
    lines: dict[str, list[PlannedRun]] = {}
    for planned in drawn.runs:
        if key in planned.run.changes:
            lines.setdefault(_line_name(planned, sheet.series), []).append(planned)
    places = sorted({value_at(p.run.tree, key) for points in lines.values() for p in points})

    def draw(axes: Axes) -> None:
        for i, (name, points) in enumerate(lines.items()):
            ordered = sorted(points, key=lambda planned: value_at(planned.run.tree, key))
            x = [value_at(planned.run.tree, key) for planned in ordered]
            values = [_values(planned, drawn.results, column) for planned in ordered]
            known = [(place, found) for place, found in zip(x, values, strict=True) if found]
            colour = COLOURS[i % len(COLOURS)]
            dash = DASHES[i // len(COLOURS) % len(DASHES)]
            if known:
                at = [place for place, _ in known]
                mean = [float(np.mean(found)) for _, found in known]
                std = [float(np.std(found, ddof=1)) if len(found) > 1 else 0 for _, found in known]
                axes.errorbar(
                    at, mean, yerr=std, label=name, linestyle=dash, marker="o", capsize=3,
                    color=colour,
                )  # fmt: skip
            printed = _printed(ordered, key, title)
            if printed:
                at, numbers = (list(values) for values in zip(*printed, strict=True))
                axes.plot(at, numbers, "o", fillstyle="none", label=f"{name}, paper", color=colour)
        if key.endswith("num_codes") and title == "perplexity":
            axes.plot(places, places, color=INK, marker="+", label="codebook size")
        _log_axes(axes, places)
        for place in _printed_as_diverged(drawn.runs, key, title):
            at_the_top = {"xy": (place, 0.97), "xycoords": ("data", "axes fraction")}
            axes.annotate("paper: diverged", rotation=90, ha="center", va="top", **at_the_top)
        axes.set_xlabel(label)
        axes.set_ylabel(title)
        _legend_above(axes, list(lines))

    return draw


def _log_axes(axes: Axes, places: Sequence[float]) -> None:
    """Use logarithmic axes, with a tick at every place of the horizontal one."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.tick_params(axis="x", labelrotation=45 if min(places) < 1e-2 else 0)
    if axes.lines:
        logarithmic(axes)


def _legend_above(axes: Axes, names: Sequence[str]) -> None:
    """Add a legend above the axes, in which the paper's points follow those found."""
    _, labels = axes.get_legend_handles_labels()
    pairs = [label for name in names for label in (name, f"{name}, paper") if label in labels]
    if labels:
        legend_above(axes, list(dict.fromkeys([*pairs, *labels])), most=2)


def _line_name(planned: PlannedRun, series: Mapping[str, str]) -> str:
    """Return the method, and the values of the settings that separate its lines."""
    title = planned.run.what.partition(", ")[0]
    values = [f"{name} {value_at(planned.run.tree, key)}" for key, name in series.items()]
    return ", ".join([title, *values])


def _printed_as_diverged(runs: Sequence[PlannedRun], key: str, title: str) -> list[float]:
    """Return the places where the paper prints that training diverged."""
    return sorted(
        {
            value_at(planned.run.tree, key)
            for planned in runs
            if key in planned.run.changes and planned.run.expected.get(title) == "diverged"
        }
    )


def _printed(points: Sequence[PlannedRun], key: str, title: str) -> list[tuple[float, float]]:
    """Return the points that the paper prints, where they are numbers."""
    found = []
    for planned in points:
        text = planned.run.expected.get(title, "").partition("±")[0].strip()
        if text.replace(".", "", 1).isdecimal():
            found.append((float(value_at(planned.run.tree, key)), float(text)))
    return found


def _values(
    planned: PlannedRun, results: Mapping[Trial, TrialResult], column: SheetColumn
) -> list[float]:
    values = [value_of(column, results[t].measures) for t in planned.trials if t in results]
    return [value for value in values if value is not None]


def curves(drawn: Drawn) -> Drawing:
    """Draw held-out measures over training; two of a single method share a panel with two axes."""
    columns, runs = list(drawn.plan.figure.sheet.columns), drawn.runs
    if len(runs) == 1 and len(columns) == 2:
        name = f"{' and '.join(columns)} over training"
        return _plotted({name: lambda axes: _twin_axes(axes, drawn, runs[0])}, 6.4, 4.0)

    def panel(title: str) -> Callable[[Axes], None]:
        def draw(axes: Axes) -> None:
            for i, planned in enumerate(runs):
                _curve(axes, drawn, planned, title, COLOURS[i % len(COLOURS)])
            axes.set_xlabel(drawn.plan.figure.sheet.unit)
            axes.set_ylabel(title)
            logarithmic(axes)
            _legend_above(axes, [planned.run.what for planned in runs])

        return draw

    return _plotted({f"{title} over training": panel(title) for title in columns}, 5.2, 3.8)


def _twin_axes(axes: Axes, drawn: Drawn, planned: PlannedRun) -> None:
    for title, its, colour in zip(
        drawn.plan.figure.sheet.columns, (axes, axes.twinx()), COLOURS, strict=False
    ):
        _curve(its, drawn, planned, title, colour)
        its.set_ylabel(title, color=colour)
        its.tick_params(axis="y", labelcolor=colour)
        its.grid(visible=its is axes)
    axes.set_xlabel(drawn.plan.figure.sheet.unit)
    axes.set_title(planned.run.what, fontsize=10)


def _curve(axes: Axes, drawn: Drawn, planned: PlannedRun, title: str, colour: str) -> None:
    """Draw the mean over seeds, with a band from minimum to maximum."""
    column, results = drawn.plan.figure.sheet.columns[title], drawn.results
    curves = [
        {int(point["step"]): value_of(column, point) for point in results[trial].curve}
        for trial in planned.trials
        if trial in results and results[trial].curve
    ]
    steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    values = np.array([[curve[step] for step in steps] for curve in curves], dtype=np.float64)
    if not steps or np.isnan(values).all():
        return
    marker = "o" if len(steps) == 1 else None
    at = np.array(steps) / drawn.steps_per_unit()
    axes.plot(at, values.mean(axis=0), color=colour, label=planned.run.what, marker=marker)
    edges = values.min(axis=0), values.max(axis=0)
    axes.fill_between(at, *edges, color=colour, alpha=0.18, linewidth=0)


def entropy(drawn: Drawn) -> Drawing:
    """Draw mean and standard deviation of the entropy on the training split over training."""
    train = drawn.images("train")
    curves = {
        what: entropies(trial, drawn.models[trial], train, drawn.check)
        for what, trial in drawn.first.items()
    }

    def draw(axes: Axes) -> None:
        for i, (what, by_step) in enumerate(curves.items()):
            steps = sorted(by_step)
            mean, std = (np.array([by_step[step][j] for step in steps]) for j in (0, 1))
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(steps, mean, color=colour, label=what, marker="o", markersize=3)
            axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel("step")
        axes.set_ylabel("entropy, nats")
        _legend_above(axes, list(curves))

    numbers = {
        f"{what}, step {step:,}": {"mean entropy, nats": mean, "standard deviation": std}
        for what, by_step in curves.items()
        for step, (mean, std) in sorted(by_step.items())
    }
    return _plotted({"entropy over training": draw}, 6.4, 4.0, numbers)


def label_maps(drawn: Drawn) -> Drawing:
    """Draw a t-SNE map of the pixels of random training images, once per kind of label."""
    its = drawn.plan.images[drawn.data]
    points, draws, numbers = None, {}, {}
    for label in drawn.plan.figure.sheet.labels:
        dataset = open_images(its.data.model_copy(update={"label": label}), "train", its.image)
        order = torch.randperm(len(dataset), generator=seeding.generator(0, "map"))[:_MOST_IN_MAP]
        batch = dataset.read(order.tolist())
        pixels = from_stored(batch.images, its.image).flatten(1)
        points = tsne(pixels) if points is None else points
        draws[f"t-SNE map by {label}"] = _map(points, batch.labels, dataset.class_names, label)
        numbers[label] = _separation(pixels, batch.labels)
    return _plotted(draws, 5.4, 4.8, numbers)


def _separation(pixels: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how well pixels tell labels apart, beside a constant guess; without labels nothing."""
    known = labels >= 0
    return {
        "k-NN accuracy": neighbour_accuracy(pixels[known], labels[known]),
        "share of the most common label": int(labels[known].bincount().max()) / int(known.sum()),
    }


def _map(
    points: np.ndarray, labels: Tensor, names: Sequence[str], label: str
) -> Callable[[Axes], None]:
    colours = matplotlib.colormaps["tab10"]

    def draw(axes: Axes) -> None:
        named = {
            number: names[number] if number >= 0 else "no label"
            for number in map(int, labels.unique())
        }
        for i, (number, name) in enumerate(named.items()):
            x, y = points[(labels == number).numpy()].T
            axes.scatter(x, y, s=9, c=[colours(i % colours.N)], linewidths=0, label=name)
        axes.set_xlabel(label)
        axes.set_xticks([])
        axes.set_yticks([])
        legend_above(axes, list(named.values()), most=5, markerscale=2.0)

    return draw
