"""The HTML page of `explore`."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes

from imagetok.analysis.latent_space import STEPS, Exploration
from imagetok.reporting import Block, Figure, Pictures, ReportSection, Table, Text, write_report
from imagetok.reporting.figures import panels


def write_page(path: Path, title: str, found: Exploration) -> None:
    """Write an exploration as a self-contained HTML file."""
    columns = list(dict.fromkeys(name for row in found.distances.values() for name in row))
    rows = [(name, *(row.get(c) for c in columns)) for name, row in found.distances.items()]
    names, changed = list(found.changed), torch.cat(list(found.changed.values()))
    neighbours: list[Block] = [
        Text(
            "Rows neighbour-n: every code is replaced by one of its n nearest codes. Row "
            "interpolation: the encoder outputs of two random images are interpolated."
        ),
        Pictures(changed, len(changed) // len(names), row_labels=names),
        Table(("images", *columns), rows, "Distances from the original images."),
    ]
    walks: list[Block] = [
        Text("The encoder outputs of two images, linearly interpolated, quantized and decoded."),
        Pictures(found.between, STEPS),
    ]
    sections = [ReportSection("Nearest codes", neighbours), ReportSection("Interpolation", walks)]
    for name, patches in found.patches.items():
        summary = (
            "Image patches where the code occurs; the middle half of each is the code's own area."
        )
        shown = [Text(summary), Pictures(patches, min(8, len(patches)))] if len(patches) else []
        sections.append(
            ReportSection(name.capitalize(), shown or [Text("The code does not occur.")])
        )
    if found.maps:
        summary = "; ".join(f"{name}: {value:.1%}" for name, value in found.accuracies.items())
        figure = panels([_map(found, name) for name in found.maps], width=11.0, height=4.8)
        blocks = [
            Figure(
                figure,
                "t-SNE by label",
                f"t-SNE of {len(found.labels):,} images, coloured by label.",
            ),
            Text(
                f"k-NN accuracy (k = 5) on all dimensions. {summary}. The most common label is the "
                "accuracy of a constant guess."
            ),
        ]
        sections.append(ReportSection("Class structure", blocks))
    write_report(path, title, sections, subtitle=f"imagetok explore, data {found.data}")


def _map(found: Exploration, name: str) -> Callable[[Axes], None]:
    """Return a function that draws a scatter plot of one map, one colour per label."""
    classes = found.labels.unique().tolist()
    colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"]

    def draw(axes: Axes) -> None:
        for i, label in enumerate(classes):
            x, y = found.maps[name][(found.labels == label).numpy()].T
            colour = [colours(i % colours.N)]
            axes.scatter(x, y, s=6, c=colour, linewidths=0, label=found.class_names[label])
        axes.set_title(f"{name}, {found.accuracies[name]:.1%}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        if len(classes) <= 20 and name == list(found.maps)[-1]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)

    return draw
