"""The page of an exploration of codes."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes

from imagetok.analysis.latent_space import STEPS, Exploration
from imagetok.reporting import Block, Figure, Pictures, ReportSection, Table, Text, write_report
from imagetok.reporting.figures import panels


def write_page(path: Path, title: str, found: Exploration) -> None:
    """One self-contained HTML file."""
    columns = list(dict.fromkeys(name for row in found.distances.values() for name in row))
    rows = [(name, *(row.get(c) for c in columns)) for name, row in found.distances.items()]
    names, changed = list(found.changed), torch.cat(list(found.changed.values()))
    neighbours: list[Block] = [
        Text("neighbour-n: every code replaced by one of the n nearest to it in the codebook."),
        Pictures(changed, len(changed) // len(names), row_labels=names),
        Table(("codes", *columns), rows, "Distances from the images themselves."),
    ]
    walks: list[Block] = [
        Text("From one image to another: what the encoder gives for the two, mixed and decoded."),
        Pictures(found.between, STEPS),
    ]
    sections = [ReportSection("Neighbours", neighbours), ReportSection("Between images", walks)]
    for name, patches in found.patches.items():
        summary = "Pixels around places where it stands, itself in the middle half of each."
        shown = [Text(summary), Pictures(patches, min(8, len(patches)))] if len(patches) else []
        sections.append(ReportSection(name.capitalize(), shown or [Text("It occurs nowhere.")]))
    if found.maps:
        summary = "; ".join(f"{name}: {value:.1%}" for name, value in found.accuracies.items())
        figure = panels([_map(found, name) for name in found.maps], width=11.0, height=4.8)
        blocks = [
            Figure(figure, "t-SNE by label", f"t-SNE of {len(found.labels):,} images by label."),
            Text(f"Label known by the 5 nearest others. {summary}."),
        ]
        sections.append(ReportSection("Labels", blocks))
    write_report(path, title, sections, subtitle="imagetok explore")


def _map(found: Exploration, name: str) -> Callable[[Axes], None]:
    """Places in the plane, a colour a label; a legend where there are few."""
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
