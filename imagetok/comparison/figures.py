"""The pictures of a comparison: measures over training steps, and reconstructions by method."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from imagetok import seeding
from imagetok.comparison.results import Comparison, MethodResult
from imagetok.data import ImageDataset
from imagetok.images import clamp_pixels, from_stored
from imagetok.indices import spread
from imagetok.pictures import as_rgb, class_labels, drawn_labels, named_grid
from imagetok.processes import device_of
from imagetok.reporting.figures import (
    COLOURS,
    DASHES,
    FAINT,
    INK,
    drawing,
    label_single_points,
    legend_above,
    logarithmic,
    panels,
)
from imagetok.tokenizers import Autoencoder

PICTURES = 12


class Reconstructions(NamedTuple):
    """The same test images, reconstructed by several methods."""

    rows: dict[str, Tensor]
    """Method -> images (N, C, H, W) in [0, 1], label maps in colour; `original` comes first."""
    classes: list[str]
    """Class of each of the N images; empty without classes."""
    drawn: list[str]
    """The same for a picture, whose font lacks some letters; see `drawn_labels`."""


def measures_figure(result: Comparison) -> bytes:
    """Draw test MSE (for label maps, accuracy), perplexity and codes used of every method, as PNG.

    Curves are means over seeds in a band from minimum to maximum; bars of codes used have the
    standard deviation over seeds.
    """
    methods = _finished(result)
    columns = min(len(methods), 6)
    legend_rows = -(-len(methods) // columns)
    height = 3.6 + 0.2 * legend_rows
    quality, *others = _draws(methods).values()

    def with_legend(axes: Axes) -> None:
        quality(axes)
        # One legend above all panels: a wide legend in one panel would squeeze it.
        named = axes.get_legend_handles_labels()
        axes.figure.legend(*named, loc="outside upper left", ncols=columns)

    return panels([with_legend, *others], width=13.0, height=max(height, 1.4 + 0.32 * len(methods)))


def measures_drawings(result: Comparison) -> dict[str, bytes]:
    """Draw the panels of `measures_figure` one by one as SVG, by the name of their measure."""
    methods = _finished(result)
    names = [method.name for method in methods]

    def with_legend(draw: Callable[[Axes], None]) -> Callable[[Axes], None]:
        def drawn(axes: Axes) -> None:
            draw(axes)
            handles, labels = axes.get_legend_handles_labels()
            if handles:  # bars have their names beside them
                legend_above(axes, labels)

        return drawn

    height = 3.0 + 0.2 * (len(names) // 3)
    return {name: drawing(with_legend(draw), height) for name, draw in _draws(methods).items()}


def _finished(result: Comparison) -> list[MethodResult]:
    return [method for method in result.methods if method.mean]


def _draws(methods: Sequence[MethodResult]) -> dict[str, Callable[[Axes], None]]:
    """Return what draws each panel, by the name of its measure."""

    def quality(axes: Axes) -> None:
        if has_mse:
            _curves(axes, methods, "mse", 1e3, "test MSE x 10^3")
            logarithmic(axes)
        else:
            _curves(axes, methods, "pixel_accuracy", 1.0, "test pixel accuracy")
        label_single_points(axes)

    def perplexity(axes: Axes) -> None:
        _curves(axes, methods, "perplexity", 1.0, "test perplexity")
        label_single_points(axes)

    has_mse = any("mse" in method.mean for method in methods)
    return {
        "mean squared error" if has_mse else "pixel accuracy": quality,
        "perplexity": perplexity,
        "codes used": lambda axes: _codes_used(axes, methods),
    }


def _curves(
    axes: Axes, methods: Sequence[MethodResult], measure: str, scale: float, label: str
) -> None:
    for i, method in enumerate(methods):
        curves = [trial.curve for trial in method.trials if trial.status == "finished"]
        levels = [key for key in curves[0][-1] if key in _level_keys(method, measure)]
        for level, key in enumerate(levels):
            points = [[(p["step"], p[key] * scale) for p in curve if key in p] for curve in curves]
            values = np.array(points, dtype=np.float64)  # (seeds, evaluations, 2)
            steps, mean = values[0, :, 0], values[:, :, 1].mean(axis=0)
            style = {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.8}
            style["linestyle"] = DASHES[(i // len(COLOURS) + level) % len(DASHES)]
            name = method.name if len(levels) == 1 else f"{method.name}, level {level}"
            marker = "o" if len(steps) == 1 else None  # a single point draws no line
            axes.plot(steps, mean, label=name, marker=marker, **style)
            band = {"color": style["color"], "alpha": 0.18, "linewidth": 0}
            axes.fill_between(
                steps, values[:, :, 1].min(axis=0), values[:, :, 1].max(axis=0), **band
            )
    axes.set_xlabel("step")
    axes.set_ylabel(label)


def _codes_used(axes: Axes, methods: Sequence[MethodResult]) -> None:
    rows = [
        (method, key, i)
        for i, method in enumerate(methods)
        for key in _level_keys(method, "codes_used")
    ]
    names = []
    for place, (method, key, i) in enumerate(rows):
        used, std = method.mean[key], method.std.get(key, 0.0)
        k = round(method.mean[key.replace("codes_used", "num_codes")])
        level = key.removeprefix("codes_used").replace("_level", ", level ")
        names.append(f"{method.name}{level}")
        axes.barh(place, k, height=0.62, color=FAINT)
        axes.barh(place, used, height=0.62, color=COLOURS[i % len(COLOURS)])
        if std:
            axes.errorbar(used, place, xerr=std, color=INK, capsize=3, linewidth=1.2)
        axes.annotate(
            f"{used:.0f} of {k}", (k, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), labels=names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel("codes used on the test set")
    axes.grid(visible=False, axis="y")


def _level_keys(method: MethodResult, measure: str) -> list[str]:
    """Return the names under which a method has a measure: its own, or one per level."""
    keys = [measure, *(f"{measure}_level{i}" for i in range(len(method.num_codes)))]
    return [key for key in keys if key in method.mean]


def reconstructions(
    tokenizers: Mapping[str, Autoencoder], dataset: ImageDataset
) -> Reconstructions:
    """Reconstruct the same test images, evenly spread over the split, with every method."""
    batch = dataset.read(spread(len(dataset), PICTURES))
    originals = from_stored(batch.images, dataset.contract)
    rows = {"original": as_rgb(originals)}
    for name, tokenizer in tokenizers.items():
        device = device_of(tokenizer)
        draw = seeding.generator(0, "pictures", device=device)
        x_hat = tokenizer.reconstruct(originals.to(device), generator=draw).cpu()
        rows[name] = as_rgb(clamp_pixels(x_hat))
    labels, names = batch.labels.tolist(), dataset.class_names
    if not any(classes := class_labels(labels, names)):
        return Reconstructions(rows, [], [])
    return Reconstructions(rows, classes, drawn_labels(labels, names))


def reconstruction_grid(rows: Mapping[str, Tensor], titles: Sequence[str] = ()) -> Image.Image:
    """Arrange one row of images per name, with the name on its left.

    titles: above equal parts of the columns.
    """
    columns = len(next(iter(rows.values())))
    return named_grid(torch.cat(list(rows.values())), columns, list(rows), titles)
