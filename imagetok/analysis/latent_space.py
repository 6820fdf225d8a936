"""Exploring the latent space: nearest codes, interpolation, class structure, single codes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagetok import seeding
from imagetok.arguments import checked_count
from imagetok.data import ImageDataset
from imagetok.data.inputs import ImageInput, open_inputs
from imagetok.data.readable import advising_to_skip, readable
from imagetok.data.subset import FirstImages
from imagetok.data.unreadable import Unreadable, left_out_words
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import batches, evaluation_batch
from imagetok.evaluation.code_patches import code_patches, encode_spread
from imagetok.evaluation.embedding import neighbour_accuracy, tsne
from imagetok.evaluation.feature_distances import compare_sets, features_of
from imagetok.evaluation.feature_networks import FeatureNetwork, NetworkSpecs, open_networks
from imagetok.evaluation.manipulation import (
    ChangedImages,
    code_vectors,
    decode_between,
    decode_neighbours,
)
from imagetok.evaluation.records import identity_of
from imagetok.images import from_stored, to_stored
from imagetok.indices import spread
from imagetok.io.output_paths import output_folder
from imagetok.pictures import as_pixels, grid, grid_of_rows
from imagetok.processes import device_of
from imagetok.progress import progress_shown
from imagetok.quantizers import level_name
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import device_for, display_name, open_tokenizer

SHOWN = 8
BETWEEN = "interpolation"
"""The name of points between the encoder outputs of two images, among changes of the codes."""
STEPS = 7
MOST_IN_MAP = 2000
"""Largest number of images in a t-SNE map."""
NEIGHBOURS = (1, 2, 4, 8, 16)
MOST_SEARCHED, PATCHES = 2000, 32
"""Images that are searched for a code, and patches of it that are shown."""


@dataclass(frozen=True, repr=False, eq=False)
class Exploration(Result):
    """The result of `explore`; its images are uint8 tensors (N, C, H, W)."""

    tokenizer: str
    """The tokenizer's path or Hub id, as passed to `explore`."""
    data: str
    fingerprint: str
    origin: str | None
    """Folder or Hub revision that the tokenizer was loaded from."""
    num_images: int
    identity: dict[str, Any]
    distances: dict[str, dict[str, float]]
    """Change of the codes -> measure -> distance from the original images."""
    changed: dict[str, Tensor]
    """Change of the codes -> some images decoded from them; `image` holds the originals."""
    shown_labels: Tensor
    """Labels of those images."""
    between: Tensor
    """Interpolations: rows of STEPS images, from one image to another."""
    maps: dict[str, np.ndarray]
    """t-SNE coordinates (N, 2) of `pixels` and of `code vectors`; empty without labels."""
    labels: Tensor
    class_names: tuple[str, ...]
    accuracies: dict[str, float]
    """Representation -> k-NN accuracy; `most common label` -> accuracy of a constant guess."""
    patches: dict[str, Tensor]
    """Code -> image patches where it occurs; empty if it does not occur."""
    skipped: tuple[Unreadable, ...] = ()
    """Images that are left out, because they cannot be read."""

    @property
    def measures(self) -> dict[str, dict[str, float]]:
        """`distances` by change of the codes, and `neighbour_accuracy`."""
        return {**self.distances, "neighbour_accuracy": self.accuracies}

    @property
    def record(self) -> dict[str, Any]:
        """Content of explore.json: the measures, the tokenizer and the data."""
        return {
            "data": self.data,
            "tokenizer": self.fingerprint,
            "origin": self.origin,
            "identity": self.identity,
            **({"skipped": [asdict(image) for image in self.skipped]} if self.skipped else {}),
            "distances": self.distances,
            "neighbour_accuracy": self.accuracies,
        }

    def title(self) -> str:
        """Return a title: the tokenizer, the data and the number of images."""
        images = f"{counted(self.num_images, 'image')}{left_out_words(len(self.skipped))}"
        return f"{self.tokenizer} on {self.data}, {images}"

    def rows(self) -> dict[str, object]:
        """Return the distances by change of the codes, then the k-NN accuracies."""
        rows: dict[str, object] = {
            f"{name}: {measure}": value
            for name, row in self.distances.items()
            for measure, value in row.items()
        }
        return rows | {f"k-NN accuracy: {k}": v for k, v in self.accuracies.items()}

    def accuracy_rows(self) -> str:
        """Return the k-NN accuracies as one line of text."""
        summary = ", ".join(f"{name} {value:.1%}" for name, value in self.accuracies.items())
        return summary or "the images have no labels"

    def pictures(self) -> dict[str, np.ndarray]:
        """Return pictures of changed codes, of interpolations and of patches of single codes."""
        changed = {name: as_pixels(images) for name, images in self.changed.items()}
        found = {", ".join(changed): grid_of_rows(changed)}
        if len(self.between):
            found["interpolation between two images"] = np.asarray(grid(self.between, STEPS))
        return found | {
            name: np.asarray(grid(patches, min(8, len(patches))))
            for name, patches in self.patches.items()
            if len(patches)
        }


@advising_to_skip()
def explore(
    tokenizer: Autoencoder | Path | str,
    data: ImageInput,
    *,
    features: NetworkSpecs = (),
    codes: Sequence[int | tuple[int, int]] = (),
    neighbours: Sequence[int] | None = None,
    limit: int | None = None,
    out: Path | str | None = None,
    max_skip: int | str = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Exploration:
    """Explore the latent space: nearest codes, interpolation, single codes and class structure.

    Every code is replaced by one of its nearest codes; the encoder outputs of two
    images are interpolated; patches are cut where chosen codes occur; and t-SNE maps of pixels and
    of code vectors are drawn by label, with the k-NN accuracy (k = 5).

    tokenizer: a Tokenizer, its folder, or a Hub id. data: a spec such as `digits:test`, a path,
    or any other image input (see `open_inputs`); with `limit` only the first images of it (at
    least 8). features: networks to measure distances in, as for `evaluate`. codes: codes to show
    patches of, as a number or (level, number). neighbours: numbers of nearest codes to choose the
    replacement from; None: 1, 2, 4, 8 and 16. out: a folder for explore.json and report.html.
    max_skip: unreadable images to leave out, a count or a percentage such as "1%".

    Raises ConfigError for a tokenizer of label maps, for a code outside the codebook, for
    neighbours of residual levels or outside 1..K - 1, and if `out` is a file; ResourceError if a
    t-SNE map needs scikit-learn and it is not installed.

    Example: `imagetok.explore("runs/a/tokenizer", "digits:test", codes=[3], out="explored")`
    """
    folder = output_folder(out)
    chosen = [(0, code) if isinstance(code, int) else code for code in codes]
    networks = open_networks(features, device_for(tokenizer, device))
    model = open_tokenizer(tokenizer, device)
    dataset, source = open_inputs(data, model.image)
    if limit is not None:
        dataset = FirstImages(dataset, checked_count("limit", limit, least=8))
    with progress_shown(progress):
        dataset = readable(dataset, max_skip)
        names = display_name(tokenizer), source
        found = _explore(model, dataset, networks, chosen, neighbours, names)
    if folder is not None:
        from imagetok.analysis.latent_space_page import write_page

        write_json(folder / "explore.json", found.record)
        write_page(folder / "report.html", f"Codes of {found.tokenizer}", found)
    return found


def _explore(
    model: Tokenizer,
    dataset: ImageDataset,
    networks: Sequence[FeatureNetwork],
    codes: Sequence[tuple[int, int]],
    neighbours: Sequence[int] | None,
    names: tuple[str, str],
) -> Exploration:
    """Compute an exploration; names: the names of the tokenizer and of the data."""
    if model.image.mode == "labels":
        raise ConfigError("explore: expected a tokenizer of images, found one of label maps")
    patches = _patches(model, dataset, codes)
    labels, maps, accuracies = _labels(model, dataset)
    sets = _changed(model, dataset, neighbours)
    chosen = list(spread(len(dataset), SHOWN))
    images, shown_labels, _ = dataset.read(chosen)
    shown = {name: one.images.images[chosen] for name, one in sets.items()}
    return Exploration(
        *names,
        fingerprint=model.fingerprint,
        origin=model.origin,
        num_images=len(dataset),
        identity=identity_of("changed codes", dataset, len(dataset), networks),
        distances=_distances(dataset, sets, networks),
        changed={"image": images} | shown,
        shown_labels=shown_labels,
        between=_walks(model, images),
        maps=maps,
        labels=labels,
        class_names=dataset.class_names,
        accuracies=accuracies,
        patches=patches,
        skipped=dataset.skipped,
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
        summary = f"{name}, {counted(uses, 'use')} in {counted(len(encoded.indices), 'image')}"
        found[summary] = to_stored(torch.cat(places)) if places else torch.empty(0)
    return found


def _changed(
    model: Tokenizer, dataset: ImageDataset, neighbours: Sequence[int] | None
) -> dict[str, ChangedImages]:
    """Decode every image from its own codes, from neighbouring codes and from interpolations."""
    sets = {"reconstruction": decode_neighbours(model, dataset, 0)}
    if neighbours is None:
        has_neighbours = all(model.codebook(i) is not None for i in range(len(model.num_codes)))
        neighbours = [n for n in NEIGHBOURS if has_neighbours and n < min(model.num_codes)]
    for n in neighbours:
        if n < 1:
            raise ConfigError(f"--neighbours: expected numbers of 1 or more, found {n}")
        sets[f"neighbour-{n}"] = decode_neighbours(model, dataset, n)
    return sets | {BETWEEN: decode_between(model, dataset)}


def _distances(
    dataset: ImageDataset, sets: Mapping[str, ChangedImages], networks: Sequence[FeatureNetwork]
) -> dict[str, dict[str, float]]:
    """Return by set: `mse`, where its images have originals, and distances in every network."""
    rows: dict[str, dict[str, float]] = {
        name: {} if changed.mse is None else {"mse": changed.mse} for name, changed in sets.items()
    }
    for network in networks:
        real = features_of(network, dataset)
        for name, changed in sets.items():
            rows[name] |= compare_sets(real, features_of(network, changed.images), network.name)
    return rows


def _walks(model: Tokenizer, images: Tensor) -> Tensor:
    """Decode interpolations between pairs of images in STEPS equal steps: (pairs * STEPS, ...)."""
    device = device_of(model)
    pixels = from_stored(images.to(device), model.image)
    first, second = (x.repeat_interleave(STEPS, dim=0) for x in (pixels[:-1:2], pixels[1::2]))
    share = torch.linspace(0, 1, STEPS, device=device).repeat(len(first) // STEPS)
    draw = seeding.generator(0, "encode", device=device)
    parts = zip(
        *(x.split(evaluation_batch(model.image)) for x in (first, second, share)), strict=True
    )
    return torch.cat(
        [model.decode(model.encode_between(*part, generator=draw)).cpu() for part in parts]
    )


def _labels(
    model: Tokenizer, dataset: ImageDataset
) -> tuple[Tensor, dict[str, np.ndarray], dict[str, float]]:
    """Return labels, t-SNE maps and k-NN accuracies of a random choice of images.

    Images without a label are left out. All three are empty if the dataset has no classes.
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
