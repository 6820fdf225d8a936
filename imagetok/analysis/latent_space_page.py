"""The HTML page of `explore`."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes

from imagetok.analysis.latent_space import BETWEEN, STEPS, Exploration
from imagetok.data.unreadable import left_out_words
from imagetok.evaluation.meanings import meanings_of
from imagetok.pictures import class_labels
from imagetok.reporting import (
    Block,
    Figure,
    Pictures,
    ReportSection,
    Table,
    Text,
    glossary,
    write_report,
)
from imagetok.reporting.figures import drawing, legend_above
from imagetok.suggestions import counted

_MOST_NAMED = 20  # classes in a legend


def write_page(path: Path, title: str, found: Exploration) -> None:
    """Write an exploration as a self-contained HTML file."""
    sections = [_nearest_codes(found), _interpolation(found)]
    for name, patches in found.patches.items():
        summary = (
            "Image patches where the code occurs; the middle half of each is the code's own area."
        )
        shown = [Text(summary), Pictures(patches, min(8, len(patches)))] if len(patches) else []
        sections.append(
            ReportSection(name.capitalize(), shown or [Text("The code does not occur.")])
        )
    if found.maps:
        sections.append(_class_structure(found))
    what = "imagetok explore: what the codes of a tokenizer stand for"
    measured = f"Measured on {counted(found.num_images, 'image')} of {found.data}"
    measured += left_out_words(len(found.skipped))
    write_report(path, title, sections, what, measured)


def _nearest_codes(found: Exploration) -> ReportSection:
    """Build the section of images whose codes are replaced by near ones."""
    names = [name for name in found.changed if name != BETWEEN]
    images = torch.cat([found.changed[name] for name in names])
    columns = len(images) // len(names)
    classes = class_labels(found.shown_labels.tolist(), found.class_names)
    blocks: list[Block] = [
        Text("Rows neighbour-n: every code is replaced by one of its n nearest codes."),
        Pictures(images, columns, names, classes),
        *_distances(found, [name for name in found.distances if name != BETWEEN]),
    ]
    return ReportSection("Nearest codes", blocks)


def _interpolation(found: Exploration) -> ReportSection:
    """Build the section of interpolations, with a table of their own distances if there are any."""
    shares = [f"{i / (STEPS - 1):.0%}" for i in range(STEPS)]
    blocks: list[Block] = [
        Text(
            "The encoder outputs of two images, linearly interpolated, quantized and decoded: from "
            "the first image (0%) to the second (100%)."
        )
    ]
    if len(found.between):
        blocks.append(Pictures(found.between, STEPS, column_headers=shares))
    if BETWEEN in found.changed:
        images = found.changed[BETWEEN]
        caption = "Random points between two random images."
        blocks.append(Pictures(images, len(images), caption=caption))
    if found.distances.get(BETWEEN):
        blocks += _distances(found, [BETWEEN])
    return ReportSection("Interpolation", blocks)


def _distances(found: Exploration, names: list[str]) -> list[Block]:
    measures = list(dict.fromkeys(key for name in names for key in found.distances[name]))
    rows = [(name, *(found.distances[name].get(m) for m in measures)) for name in names]
    table = Table(("images", *measures), rows, "Distances from the original images.")
    return [table, *glossary(meanings_of(measures))]


def _class_structure(found: Exploration) -> ReportSection:
    """Build the section of t-SNE maps and k-NN accuracies."""
    rows = [(name, f"{value:.1%}") for name, value in found.accuracies.items()]
    figures = [
        Figure(
            drawing(_map(found, name), height=4.4),
            f"t-SNE of {name} by label",
            f"t-SNE of the {name} of {counted(len(found.labels), 'image')}, coloured by label.",
        )
        for name in found.maps
    ]
    caption = "On all dimensions. The most common label is the accuracy of a constant guess."
    return ReportSection(
        "Class structure", [*figures, Table(("k-NN accuracy, k = 5", ""), rows, caption)]
    )


def _map(found: Exploration, name: str) -> Callable[[Axes], None]:
    """Return a function that draws a scatter plot of one map, one colour per label."""
    classes = found.labels.unique().tolist()
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]
    named = class_labels(classes, found.class_names)
    # Dots of about 3 points; smaller ones if there are so many that they would hide each other.
    area = 14.0 if len(found.labels) <= 1000 else 9.0

    def draw(axes: Axes) -> None:
        for i, label in enumerate(classes):
            x, y = found.maps[name][(found.labels == label).numpy()].T
            colour = [colours(i % colours.N)]
            axes.scatter(x, y, s=area, c=colour, linewidths=0, label=named[i])
        axes.set_xticks([])
        axes.set_yticks([])
        if len(classes) <= _MOST_NAMED:
            legend_above(axes, named, most=5, markerscale=2.0)

    return draw
