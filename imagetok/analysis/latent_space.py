"""What the space of codes is like: measures, pictures and a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from imagetok import seeding
from imagetok.data import ArrayImages, ImageDataset
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import BATCH, batches
from imagetok.evaluation.embedding import neighbour_accuracy, tsne
from imagetok.evaluation.features import FeatureNetwork
from imagetok.evaluation.manipulation import code_vectors, decode_between, decode_neighbours
from imagetok.evaluation.patches import code_patches, encode_spread
from imagetok.evaluation.records import identity_of
from imagetok.evaluation.sets import compare_sets, features_of
from imagetok.images import from_stored, to_stored
from imagetok.processes import device_of
from imagetok.quantizers import level_name
from imagetok.tokenizers import Tokenizer

SHOWN = 8
STEPS = 7
MOST_IN_MAP = 2000
"""Images that t-SNE takes."""
MOST_SEARCHED, PATCHES = 2000, 32
"""Images that a code is looked for in, and patches of it that are shown."""


@dataclass(frozen=True, eq=False)
class Exploration:
    """What was found; pictures are bytes (N, C, H, W)."""

    identity: dict[str, Any]
    distances: dict[str, dict[str, float]]
    """By what was done to the codes: from the images themselves."""
    changed: dict[str, Tensor]
    """By what was done: the first images; also as they are."""
    between: Tensor
    """Rows of STEPS images from one image to another."""
    maps: dict[str, np.ndarray]
    """Of pixels and of code vectors: places (N, 2) in the plane; empty without labels."""
    labels: Tensor
    class_names: tuple[str, ...]
    accuracies: dict[str, float]
    """Of the nearest others; `most common label` is what a guess reaches."""
    patches: dict[str, Tensor]
    """By code: pixels around some of the places where it occurs; none where it does not."""

    def as_json(self, model: Tokenizer) -> dict[str, Any]:
        """The numbers, with what they belong to."""
        return {
            "tokenizer": model.fingerprint,
            "origin": model.origin,
            "identity": self.identity,
            "distances": self.distances,
            "neighbour_accuracy": self.accuracies,
        }


def explore(
    model: Tokenizer,
    dataset: ImageDataset,
    networks: Sequence[FeatureNetwork],
    codes: Sequence[tuple[int, int]] = (),
) -> Exploration:
    """Change the codes of every image, look where labels lie, and what some codes look like.

    codes: (level, code) of those. Raises ConfigError for label maps, for a code that is none, and
    where t-SNE would need what is not installed.
    """
    if model.image.mode == "labels":
        raise ConfigError("explore: this tokenizer is for label maps; it takes one of images")
    patches = _patches(model, dataset, codes)
    labels, maps, accuracies = _labels(model, dataset)
    sets = _changed(model, dataset)
    images = dataset.read(range(min(SHOWN, len(dataset)))).images
    return Exploration(
        identity=identity_of("changed codes", dataset, len(dataset), networks),
        distances=_distances(dataset, sets, networks),
        changed={"image": images} | {name: s.images[: len(images)] for name, s in sets.items()},
        between=_walks(model, images),
        maps=maps,
        labels=labels,
        class_names=dataset.class_names,
        accuracies=accuracies,
        patches=patches,
    )


def _patches(
    model: Tokenizer, dataset: ImageDataset, codes: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    levels = len(model.num_codes)
    for level, code in codes:
        if level >= levels or code >= model.num_codes[level]:
            sizes = ", ".join(f"level {i}: 0..{k - 1}" for i, k in enumerate(model.num_codes))
            raise ConfigError(f"--code {level}:{code}: this tokenizer has no such code ({sizes})")
    encoded = encode_spread(model, dataset, MOST_SEARCHED) if codes else None
    found = {}
    for level, code in codes:
        assert encoded is not None
        uses = int((encoded.codes[level] == code).sum())
        name = level_name(f"code {code}", level, levels).replace("_level", " of level ")
        places = code_patches(dataset, encoded, level, code, PATCHES)
        told = f"{name}, {uses:,} uses in {len(encoded.indices):,} images"
        found[told] = to_stored(torch.cat(places)) if places else torch.empty(0)
    return found


def _changed(model: Tokenizer, dataset: ImageDataset) -> dict[str, ArrayImages]:
    """Every image with its codes as they are, with neighbours for them, and from between two."""
    sets = {"reconstruction": decode_neighbours(model, dataset, 0)}
    if all(model.codebook(level) is not None for level in range(len(model.num_codes))):
        n = 1
        while n < min(min(model.num_codes), 17):
            sets[f"neighbour-{n}"] = decode_neighbours(model, dataset, n)
            n *= 2
    return sets | {"interpolation": decode_between(model, dataset)}


def _distances(
    dataset: ImageDataset, sets: Mapping[str, ArrayImages], networks: Sequence[FeatureNetwork]
) -> dict[str, dict[str, float]]:
    """By set: `mse` where each image has one of its own, and distances in every network."""
    rows: dict[str, dict[str, float]] = {
        name: {} if name == "interpolation" else {"mse": _mse(dataset, changed)}
        for name, changed in sets.items()
    }
    for network in networks:
        real = features_of(network, dataset)
        for name, changed in sets.items():
            rows[name] |= compare_sets(real, features_of(network, changed), network.name)
    return rows


def _mse(dataset: ImageDataset, changed: ArrayImages) -> float:
    """Mean squared error on [0, 1] of bytes."""
    total = 0.0
    for part in torch.arange(len(dataset)).split(BATCH):
        pair = (images.read(part.tolist()).images.double() for images in (dataset, changed))
        total += float((next(pair) - next(pair)).square().sum())
    return total / 255**2 / changed.images.numel()


def _walks(model: Tokenizer, images: Tensor) -> Tensor:
    """From each of the first images to the next, in STEPS steps of equal share."""
    device = device_of(model)
    pixels = from_stored(images.to(device), model.image)
    first, second = (x.repeat_interleave(STEPS, dim=0) for x in (pixels[:-1:2], pixels[1::2]))
    share = torch.linspace(0, 1, STEPS, device=device).repeat(len(first) // STEPS)
    draw = seeding.generator(0, "encode", device=device)
    return model.decode(model.encode_between(first, second, share, generator=draw)).cpu()


def _labels(
    model: Tokenizer, dataset: ImageDataset
) -> tuple[Tensor, dict[str, np.ndarray], dict[str, float]]:
    """Of a random choice of images: labels, maps by pixels and by codes, and accuracies.

    Images without a label are left out; none has one: nothing is found.
    """
    if not dataset.class_names:
        return torch.empty(0, dtype=torch.int64), {}, {}
    order = torch.randperm(len(dataset), generator=seeding.generator(0, "map"))[:MOST_IN_MAP]
    pixels, vectors, parts = [], [], []
    for batch in batches(model, dataset, order.tolist()):
        vectors.append(code_vectors(model, model.encode(batch.images, generator=batch.draw())))
        pixels.append(batch.images.flatten(1).cpu())
        parts.append(batch.labels)
    labels = torch.cat(parts)
    has_label = labels >= 0
    labels = labels[has_label]
    of = {"pixels": torch.cat(pixels)[has_label]}
    known = [part.cpu() for part in vectors if part is not None]
    if known:
        of["code vectors"] = torch.cat(known)[has_label]
    accuracies = {name: neighbour_accuracy(values, labels) for name, values in of.items()}
    accuracies["most common label"] = int(labels.bincount().max()) / len(labels)
    return labels, {name: tsne(values) for name, values in of.items()}, accuracies


def write_page(path: Path, title: str, found: Exploration) -> None:
    """One self-contained HTML file."""
    from imagetok.reporting import Block, Figure, Pictures, Section, Table, Text, write_report
    from imagetok.reporting.figures import panels

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
    sections = [Section("Neighbours", neighbours), Section("Between images", walks)]
    for name, patches in found.patches.items():
        told = "Pixels around places where it stands, itself in the middle half of each."
        shown = [Text(told), Pictures(patches, min(8, len(patches)))] if len(patches) else []
        sections.append(Section(name.capitalize(), shown or [Text("It occurs nowhere.")]))
    if found.maps:
        told = "; ".join(f"{name}: {value:.1%}" for name, value in found.accuracies.items())
        figure = panels([_map(found, name) for name in found.maps], width=11.0, height=4.8)
        blocks = [
            Figure(figure, "t-SNE by label", f"t-SNE of {len(found.labels):,} images by label."),
            Text(f"Label known by the 5 nearest others. {told}."),
        ]
        sections.append(Section("Labels", blocks))
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
