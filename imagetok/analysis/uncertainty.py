"""Tokenizers' doubt beside their errors: measures and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagetok.codes.encode import FirstImages
from imagetok.data import ImageDataset, describe, open_images, parse_spec
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import batches
from imagetok.evaluation.records import identity_of
from imagetok.evaluation.uncertainty import (
    Calibration,
    Doubts,
    auroc,
    calibrate,
    measure_doubts,
    noise_images,
    spearman,
)
from imagetok.processes import full_float32
from imagetok.tokenizers import Tokenizer

NUM_SHOWN = 8
_AMONG = 256  # the first images, of which the pictures are chosen
_SHOWN_AS = {"top_logit": "minus the largest logit", "margin": "minus the margin"}
_RELATED = 0.2  # a rank correlation that is worth a word


@dataclass(frozen=True, eq=False)
class Study:
    """One tokenizer's doubt by every measure that its quantizer has."""

    tokenizer: str
    fingerprint: str
    method: str
    data: str
    identities: dict[str, dict[str, Any]]
    """What the numbers depend on: the data's, and of each shifted set."""
    correlations: dict[str, dict[str, float | None]]
    """By measure: Spearman's with the error, of positions and of images."""
    aurocs: dict[str, dict[str, float]]
    """By measure (and `error` itself, for comparison): of each shifted set."""
    calibrations: dict[str, Calibration]
    pictures: dict[str, np.ndarray]
    """Rows of at most NUM_SHOWN images: images, reconstructions, error, and each measure."""

    def told_counts(self) -> str:
        """How many images there are of each set."""
        return ", ".join(f"{name} {found['count']:,}" for name, found in self.identities.items())

    def conclusion(self) -> str:
        """In words, what the rank correlation over code positions says of every measure."""
        told = [
            f"{shown_as(name)} {_does(found['positions'])}"
            for name, found in self.correlations.items()
        ]
        return f"By Spearman's correlation over code positions: {'; '.join(told)}."

    def rows(self) -> dict[str, dict[str, object]]:
        """For a table: a row a measure."""
        return {
            shown_as(name): {
                **{f"spearman, {what}": value for what, value in found.items()},
                **{f"auroc, {what}": v for what, v in self.aurocs[name].items()},
            }
            for name, found in (self.correlations | {"error": {}}).items()
            if found or self.aurocs[name]
        }

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures."""
        return {
            "tokenizer": self.fingerprint,
            "origin": self.tokenizer,
            "method": self.method,
            "data": self.data,
            "identities": self.identities,
            "spearman": self.correlations,
            "auroc": self.aurocs,
            "calibration": {
                name: {"doubt": found.doubt.tolist(), "mse_x1000": found.error.tolist()}
                for name, found in self.calibrations.items()
            },
        }


def shown_as(name: str) -> str:
    """A measure's name on a page, with the sign that it is measured with, and its level."""
    measure, _, level = name.partition("_level")
    return _SHOWN_AS.get(measure, measure) + (f", level {level}" if level else "")


def _does(correlation: float | None) -> str:
    """What a doubt does, by its rank correlation with the error."""
    if correlation is None:
        return "cannot be compared, it or the error is the same everywhere"
    if abs(correlation) <= _RELATED:
        return f"hardly tells of the error ({correlation:.2f})"
    return f"{'rises' if correlation > 0 else 'falls'} with the error ({correlation:.2f})"


def check_asked(tokenizers: Sequence[str], data: str) -> None:
    """Raise ConfigError for a tokenizer given twice, and for noise as what it was made for."""
    places = [Path(source).resolve() for source in tokenizers]
    for source, place in zip(tokenizers, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"--tokenizer: expected different ones, found {source} twice")
    if data == "noise":
        raise ConfigError(
            "--data noise: `noise` stands only for images of --shifted; give the images that the "
            "tokenizer was made for, for example --data cifar10:test --shifted noise"
        )


def measure(
    source: str, data: str, shifted: Sequence[str], limit: int | None, device: torch.device
) -> Study:
    """One tokenizer on its data and on shifted sets; each set is read whole, or to `limit`."""
    model = Tokenizer.from_pretrained(source).to(device)
    name, dataset = _open(data, model, limit, 0)
    doubts = measure_doubts(model, dataset)
    aurocs: dict[str, dict[str, float]] = {m: {} for m in (*doubts.maps, "error")}
    identities = {name: identity_of("doubt", dataset, len(dataset), ())}
    first = next(iter(doubts.maps))
    for spec in shifted:
        other_name, others = _open(spec, model, limit, len(dataset))
        found = measure_doubts(model, others)
        identities[other_name] = identity_of("doubt", others, len(others), ())
        for m in doubts.maps:
            pair = (of.of_images(m)[0] for of in (doubts, found))
            aurocs[m][other_name] = auroc(*pair)
        pair = (of.of_images(first)[1] for of in (doubts, found))
        aurocs["error"][other_name] = auroc(*pair)
    return Study(
        tokenizer=source,
        fingerprint=model.fingerprint,
        method=", ".join(model.config.method),
        data=name,
        identities=identities,
        correlations={m: _correlations(doubts, m) for m in doubts.maps},
        aurocs=aurocs,
        calibrations={m: calibrate(doubts.maps[m], doubts.errors[m]) for m in doubts.maps},
        pictures=_pictures(model, dataset, doubts),
    )


def write_page(path: Path, studies: Sequence[Study]) -> None:
    """The studies as one self-contained HTML file."""
    from imagetok.reporting import (
        Block,
        Figure,
        Pictures,
        Section,
        Table,
        Text,
        curves,
        write_report,
    )

    methods = [study.method for study in studies]
    titles = {
        study.tokenizer: study.method
        if methods.count(study.method) == 1
        else f"{study.method} {study.fingerprint[:6]}"
        for study in studies
    }
    lines = {
        f"{titles[study.tokenizer]}: {shown_as(name)}": (
            np.arange(1, len(found.error) + 1),
            found.error,
        )
        for study in studies
        for name, found in study.calibrations.items()
    }
    together: list[Block] = [
        Text(
            "Code positions in ten groups, from the least doubt to the most: a doubt that knows "
            "where the tokenizer errs rises from left to right."
        ),
        Figure(
            curves(lines, "group, by doubt", "mean squared error x 10^3"),
            "mean squared error over the groups of doubt",
        ),
    ]
    sections = [Section("Does doubt rise with the error?", together)]
    for study in studies:
        rows = study.rows()
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        cells = [(name, *(row.get(column) for column in columns)) for name, row in rows.items()]
        among = min(_AMONG, study.identities[study.data]["count"])
        blocks: list[Block] = [
            Text(f"{study.tokenizer} on {study.data}. Images: {study.told_counts()}."),
            Text(study.conclusion()),
            Table(("measure", *columns), cells),
            Pictures(
                np.concatenate(list(study.pictures.values())),
                len(next(iter(study.pictures.values()))),
                row_labels=list(study.pictures),
                caption=f"The images with the most doubt on average among the first {among:,}; "
                "each map from its least to its largest value.",
            ),
        ]
        sections.append(Section(titles[study.tokenizer], blocks))
    write_report(path, "Uncertainty beside error", sections)


def _open(spec: str, model: Tokenizer, limit: int | None, count: int) -> tuple[str, ImageDataset]:
    """A dataset and its name; `noise` has as many images as the data, `count`."""
    if spec == "noise":
        return spec, noise_images(model.image, count)
    config, split = parse_spec(spec)
    dataset = open_images(config, split, model.image)
    return describe(config, split), dataset if limit is None else FirstImages(dataset, limit)


def _correlations(doubts: Doubts, name: str) -> dict[str, float | None]:
    return {
        "positions": spearman(doubts.maps[name].reshape(-1), doubts.errors[name].reshape(-1)),
        "images": spearman(*doubts.of_images(name)),
    }


@full_float32()
def _pictures(model: Tokenizer, dataset: ImageDataset, doubts: Doubts) -> dict[str, np.ndarray]:
    from imagetok.pictures import as_pixels, heat

    first = next(iter(doubts.maps))
    among = range(min(_AMONG, len(dataset)))
    chosen = np.argsort(-doubts.of_images(first)[0][: len(among)], kind="stable")[:NUM_SHOWN]
    # In the batches that were measured, so that a test-time rule that samples draws the same.
    pairs = [
        (batch.images, model.decode(model.encode(batch.images, generator=batch.draw())))
        for batch in batches(model, dataset, among)
    ]
    images, decoded = (torch.cat(parts)[chosen.tolist()] for parts in zip(*pairs, strict=True))
    rgb = [as_pixels(part.expand(-1, 3, -1, -1).cpu()) for part in (images, decoded)]
    shown = {"image": rgb[0], "reconstruction": rgb[1]}
    size = images.shape[-2:]
    for name, maps in {"error": doubts.errors[first], **doubts.maps}.items():
        low, high = maps[chosen].min(), maps[chosen].max()
        scaled = torch.from_numpy((maps[chosen] - low) / max(high - low, 1e-12))
        grown = torch.nn.functional.interpolate(scaled[:, None], size=size, mode="nearest")[:, 0]
        shown[shown_as(name)] = heat(grown)
    return shown
