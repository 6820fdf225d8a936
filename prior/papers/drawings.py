"""The drawings of papers' figures, one PNG per data set."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from imagetok import seeding
from imagetok.analysis.diagnosis import entropy_maps as drawn_maps
from imagetok.comparison.figures import reconstruction_grid, reconstructions
from imagetok.comparison.page import reconstruction_pictures
from imagetok.images import clamp_pixels, from_stored
from imagetok.indices import spread
from imagetok.named_configs.sheets import FigureKind
from imagetok.pictures import as_rgb, png_bytes
from imagetok.processes import device_of
from imagetok.reporting import Pictures
from imagetok.reporting.figures import picture_table
from prior.papers.follow_ups import PICTURES
from prior.papers.plots import Drawing, Drawn, curves, entropy, label_maps, lines
from prior.papers.stages import entropy_maps, stages_of
from prior.sample_folder import read_drawn
from prior.trial_priors import samples_folder

_SHOWN_IMAGES = 6
"""Test images in a picture of stages of training."""
_MOST_STAGES = 8
"""Columns of a picture of entropy maps."""

_CAPTIONS: Mapping[FigureKind, str] = {
    "table": "",
    "lines": "hollow points are the paper's numbers",
    "curves": "measures of held-out images during training",
    "entropy": "mean over positions and images, band: standard deviation; first seed",
    "entropy-maps": "entropy at every position of one training image; first seed",
    "reconstructions": "test images above, and their reconstructions; first seed",
    "stages": "test images and their reconstructions during training; first seed",
    "samples": "first samples of every prior; first seed",
    "labels": "t-SNE of random training images",
}
"""What the drawing of each kind shows, in every data set."""
_OVER_SEEDS: Mapping[FigureKind, str] = {
    "lines": "mean over the seeds, with bars of one sample standard deviation",
    "curves": "mean over the seeds, with a band from the smallest to the largest value",
}


def caption_of(kind: FigureKind, num_seeds: int) -> str:
    """Return what the drawing of a kind shows, and what it is over several seeds."""
    spread = _OVER_SEEDS.get(kind, "") if num_seeds > 1 else ""
    return "; ".join(filter(None, (spread, _CAPTIONS[kind])))


def draw(drawn: Drawn) -> Drawing | None:
    """Draw a figure on one data set; None for a table, and if nothing was trained."""
    kind = drawn.plan.figure.sheet.kind
    make = _DRAWINGS.get(kind)
    return make(drawn) if make is not None and (drawn.first or kind == "labels") else None


def _entropy_table(drawn: Drawn) -> Drawing:
    """Draw the entropy at every position of one image: a row per model, one scale for all."""
    train = drawn.images("train")
    image = from_stored(train.read([0]).images, train.contract)
    found = {
        what: entropy_maps(trial, drawn.models[trial], image) for what, trial in drawn.first.items()
    }
    steps = _spread(sorted(set.intersection(*(set(by_step) for by_step in found.values()))))
    rows = {what: [by_step[step].numpy() for step in steps] for what, by_step in found.items()}
    columns = [f"step {step:,}" for step in steps]
    shown = as_rgb(image).expand(-1, 3, -1, -1)[0].permute(1, 2, 0).numpy()
    png = picture_table(rows, columns, "nats", shown)
    maps = {what: torch.stack([by_step[step] for step in steps]) for what, by_step in found.items()}
    heat, caption = drawn_maps(image.expand(len(steps), *image.shape[1:]), maps)
    beside = heat.pop("image")[:1]
    pictures = np.concatenate([part for its in heat.values() for part in (beside, its)])
    named = ["image", *columns]
    return Drawing(png, [Pictures(pictures, len(named), list(heat), named, caption)], {})


def _spread(steps: Sequence[int]) -> list[int]:
    """Return at most _MOST_STAGES of the steps, evenly spread, with the first and the last."""
    places = np.linspace(0, len(steps) - 1, min(len(steps), _MOST_STAGES)).round().astype(int)
    return [steps[i] for i in places]


def _reconstructions(drawn: Drawn) -> Drawing:
    models = {what: drawn.models[trial] for what, trial in drawn.first.items()}
    shown = reconstructions(models, drawn.images("test"))
    png = png_bytes(reconstruction_grid(shown.rows, shown.drawn))
    return Drawing(png, [reconstruction_pictures(shown)], {})


def _stages(drawn: Drawn) -> Drawing:
    """Draw the same test images at every kept step, the methods side by side."""
    test, by_method = drawn.images("test"), {}
    originals = from_stored(test.read(spread(len(test), _SHOWN_IMAGES)).images, test.contract)
    unit, per = drawn.plan.figure.sheet.unit, drawn.steps_per_unit()
    for what, trial in drawn.first.items():
        rows: dict[str, Tensor] = {}
        for step, model in stages_of(trial, drawn.models[trial]):
            device = device_of(model)
            draws = seeding.generator(0, "pictures", device=device)
            x_hat = model.reconstruct(originals.to(device), generator=draws).cpu()
            when = f"{step // per:,}" if step % per == 0 else f"{step / per:.2f}"
            rows[f"{unit} {when}"] = as_rgb(clamp_pixels(x_hat))
        by_method[what] = rows | {"test images": as_rgb(originals)}
    names = next(iter(by_method.values()))
    shown = [name for name in names if all(name in rows for rows in by_method.values())]
    joined = {name: torch.cat([rows[name] for rows in by_method.values()]) for name in shown}
    pictures = [
        Pictures(torch.cat([rows[name] for name in shown]), len(originals), shown, caption=what)
        for what, rows in by_method.items()
    ]
    return Drawing(png_bytes(reconstruction_grid(joined, list(by_method))), pictures, {})


def _samples(drawn: Drawn) -> Drawing | None:
    """Draw samples of every prior, in two rows each."""
    rows: dict[str, Tensor] = {}
    pictures = []
    for what, trial in drawn.first.items():
        folder = samples_folder(trial)
        if folder.is_dir():
            shown = min(PICTURES, drawn.plan.num_samples or PICTURES)
            images = read_drawn(folder, range(shown)).expand(-1, 3, -1, -1)
            pictures.append(Pictures(images, -(-shown // 2), caption=what))
            for i, half in enumerate(images.chunk(2)):
                rows[what if i == 0 else " " * len(rows)] = half  # the second row has no name
    return Drawing(png_bytes(reconstruction_grid(rows)), pictures, {}) if rows else None


_DRAWINGS: Mapping[FigureKind, Callable[[Drawn], Drawing | None]] = {
    "lines": lines,
    "curves": curves,
    "entropy": entropy,
    "entropy-maps": _entropy_table,
    "reconstructions": _reconstructions,
    "stages": _stages,
    "samples": _samples,
    "labels": label_maps,
}
