"""The pictures of a comparison: measures over training steps, and reconstructions by method."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from imagetok import seeding
from imagetok.comparison.results import Comparison, MethodResult
from imagetok.data import ImageDataset
from imagetok.images import clamp_pixels, from_stored
from imagetok.pictures import as_rgb, grid
from imagetok.processes import device_of
from imagetok.reporting.figures import COLOURS, DASHES, logarithmic, panels
from imagetok.tokenizers import Autoencoder

PICTURES = 12
_PADDING = 2


def measures_figure(result: Comparison) -> bytes:
    """Draw test MSE (for label maps, accuracy), perplexity and codes used of every method, as PNG.

    Curves are means over seeds in a band from minimum to maximum; bars of codes used have the
    standard deviation over seeds.
    """
    methods = [method for method in result.methods if method.mean]
    columns = min(len(methods), 6)
    legend_rows = -(-len(methods) // columns)
    height = 3.6 + 0.2 * legend_rows

    def quality(axes: Axes) -> None:
        if any("mse" in method.mean for method in methods):
            _curves(axes, methods, "mse", 1e3, "test MSE x 10^3")
            logarithmic(axes)
        else:
            _curves(axes, methods, "pixel_accuracy", 1.0, "test pixel accuracy")
        # One legend above all panels: a wide legend in one panel would squeeze it.
        named = axes.get_legend_handles_labels()
        axes.figure.legend(*named, loc="outside upper left", ncols=columns)

    return panels(
        [
            quality,
            lambda axes: _curves(axes, methods, "perplexity", 1.0, "test perplexity"),
            lambda axes: _codes_used(axes, methods),
        ],
        width=13.0,
        height=max(height, 1.4 + 0.32 * len(methods)),
    )


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
        axes.barh(place, k, height=0.62, color="#eef0f3")
        axes.barh(place, used, height=0.62, color=COLOURS[i % len(COLOURS)])
        if std:
            axes.errorbar(used, place, xerr=std, color="#2b3038", capsize=3, linewidth=1.2)
        axes.annotate(
            f"{used:.0f} of {k}", (k, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), labels=names)
    axes.tick_params(axis="y", length=0, labelcolor="#2b3038")
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
) -> tuple[dict[str, Tensor], int]:
    """Reconstruct the same test images, evenly spread over the split, with every method.

    Returns rows of images by name, originals first, each (N, C, H, W) in [0, 1] with label maps in
    colour; and N.
    """
    spread = range(0, len(dataset), max(1, len(dataset) // PICTURES))[:PICTURES]
    originals = from_stored(dataset.read(spread).images, dataset.contract)
    rows = {"original": as_rgb(originals)}
    for name, tokenizer in tokenizers.items():
        device = device_of(tokenizer)
        draw = seeding.generator(0, "pictures", device=device)
        x_hat = tokenizer.reconstruct(originals.to(device), generator=draw).cpu()
        rows[name] = as_rgb(clamp_pixels(x_hat))
    return rows, len(originals)


def reconstruction_grid(rows: Mapping[str, Tensor], groups: Sequence[str] = ()) -> Image.Image:
    """Arrange one row of images per name, with the name on its left.

    groups: titles above equal parts of the columns.
    """
    every = torch.cat(list(rows.values()))
    columns, (height, width) = len(every) // len(rows), every.shape[2:]
    scale = max(1, 64 // max(height, width))
    pictures = grid(every, columns, _PADDING)
    size = (pictures.width * scale, pictures.height * scale)
    pictures = pictures.convert("RGB").resize(size, Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=16)
    margin = 16 + max(round(font.getlength(name)) for name in rows)
    top = 28 if groups else 0
    canvas = Image.new("RGB", (margin + pictures.width, top + pictures.height), "white")
    canvas.paste(pictures, (margin, top))
    draw = ImageDraw.Draw(canvas)
    for i, title in enumerate(groups):
        centre = margin + pictures.width * (i + 0.5) / len(groups)
        draw.text((centre, top / 2), title, fill="#2b3038", font=font, anchor="mm")
        if i:  # a gap between the groups
            left = margin + pictures.width * i // len(groups)
            draw.rectangle((left - 3, 0, left + 3, canvas.height), fill="white")
    for row, name in enumerate(rows):
        middle = top + (_PADDING + row * (height + _PADDING) + height / 2) * scale
        draw.text((margin - 8, middle), name, fill="#2b3038", font=font, anchor="rm")
    return canvas
