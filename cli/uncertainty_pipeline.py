"""Tokenizers' doubt beside their errors: measures and a page. No click here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagetok.codes.encode import FirstImages
from imagetok.data import ImageDataset, describe, open_images, parse_spec
from imagetok.evaluation.uncertainty import (
    Calibration,
    Doubts,
    auroc,
    calibrate,
    measure_doubts,
    noise_images,
    spearman,
)
from imagetok.images import from_stored
from imagetok.processes import device_of
from imagetok.tokenizers import Tokenizer

NUM_SHOWN = 8


@dataclass(frozen=True, eq=False)
class Study:
    """One tokenizer's doubt by every measure that its quantizer has."""

    tokenizer: str
    fingerprint: str
    method: str
    data: str
    num_images: dict[str, int]
    """Of the data, and of each shifted set."""
    correlations: dict[str, dict[str, float | None]]
    """By measure: Spearman's with the error, of positions and of images."""
    aurocs: dict[str, dict[str, float]]
    """By measure (and `error` itself, for comparison): of each shifted set."""
    calibrations: dict[str, Calibration]
    pictures: dict[str, np.ndarray]
    """Rows of at most NUM_SHOWN images: images, reconstructions, error, and each measure."""

    def rows(self) -> dict[str, dict[str, object]]:
        """For a table: a row a measure."""
        return {
            name: {
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
            "num_images": self.num_images,
            "spearman": self.correlations,
            "auroc": self.aurocs,
            "calibration": {
                name: {"doubt": found.doubt.tolist(), "mse_x1000": found.error.tolist()}
                for name, found in self.calibrations.items()
            },
        }


def measure(
    source: str, data: str, shifted: Sequence[str], limit: int | None, device: torch.device
) -> Study:
    """One tokenizer on its data and on shifted sets; each set is read whole, or to `limit`."""
    model = Tokenizer.from_pretrained(source).to(device)
    name, dataset = _open(data, model, limit, 0)
    doubts = measure_doubts(model, dataset)
    aurocs: dict[str, dict[str, float]] = {m: {} for m in (*doubts.maps, "error")}
    num_images = {name: len(dataset)}
    first = next(iter(doubts.maps))
    for spec in shifted:
        other_name, others = _open(spec, model, limit, len(dataset))
        found, num_images[other_name] = measure_doubts(model, others), len(others)
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
        num_images=num_images,
        correlations={m: _correlations(doubts, m) for m in doubts.maps},
        aurocs=aurocs,
        calibrations={m: calibrate(doubts.maps[m], doubts.errors[m]) for m in doubts.maps},
        pictures=_pictures(model, dataset, doubts),
    )


def write_page(path: Path, studies: Sequence[Study]) -> None:
    """The studies as one self-contained HTML file."""
    from imagetok.report import Block, Figure, Pictures, Section, Table, Text, curves, write_report

    methods = [study.method for study in studies]
    titles = {
        study.tokenizer: study.method
        if methods.count(study.method) == 1
        else f"{study.method} {study.fingerprint[:6]}"
        for study in studies
    }
    lines = {
        f"{titles[study.tokenizer]}: {name}": (np.arange(1, len(found.error) + 1), found.error)
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
        counts = ", ".join(f"{name} {count:,}" for name, count in study.num_images.items())
        blocks: list[Block] = [
            Text(f"{study.tokenizer} on {study.data}. Images: {counts}."),
            Table(("measure", *columns), cells),
            Pictures(
                np.concatenate(list(study.pictures.values())),
                len(next(iter(study.pictures.values()))),
                row_labels=list(study.pictures),
                caption="The images with the most doubt on average among the first; each map from "
                "its least to its largest value.",
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


def _pictures(model: Tokenizer, dataset: ImageDataset, doubts: Doubts) -> dict[str, np.ndarray]:
    from imagetok.report.pictures import as_pixels, heat

    first = next(iter(doubts.maps))
    chosen = np.argsort(-doubts.of_images(first)[0][:256], kind="stable")[:NUM_SHOWN]
    device = device_of(model)
    images = from_stored(dataset.read(chosen.tolist()).images.to(device), model.image)
    with torch.no_grad():
        decoded = model.decode(model.encode(images))
    rgb = [as_pixels(part.expand(-1, 3, -1, -1).cpu()) for part in (images, decoded)]
    shown = {"image": rgb[0], "reconstruction": rgb[1]}
    size = images.shape[-2:]
    for name, maps in {"error": doubts.errors[first], **doubts.maps}.items():
        low, high = maps[chosen].min(), maps[chosen].max()
        scaled = torch.from_numpy((maps[chosen] - low) / max(high - low, 1e-12))
        grown = torch.nn.functional.interpolate(scaled[:, None], size=size, mode="nearest")[:, 0]
        shown[name] = heat(grown)
    return shown
