"""Whether a tokenizer's uncertainty tells where it errs, and which images are foreign to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagetok.codes.encode import FirstImages
from imagetok.data import ImageDataset
from imagetok.data.inputs import ImageInput, open_inputs
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import batches
from imagetok.evaluation.records import identity_of
from imagetok.evaluation.uncertainty import (
    BinnedError,
    UncertaintyScores,
    auroc,
    binned_error,
    measure_uncertainty,
    noise_images,
    spearman,
)
from imagetok.io.output_paths import output_folder
from imagetok.pictures import as_pixels, grid_of_rows, heat_map
from imagetok.processes import choose_device, full_float32
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import display_name, open_tokenizer

NUM_SHOWN = 8
NUM_CANDIDATES = 256  # the first images, of which the pictures are chosen
_SHOWN_AS = {"top_logit": "minus the largest logit", "margin": "minus the margin"}
_RELATED = 0.2  # a rank correlation that is worth a word


@dataclass(frozen=True, repr=False, eq=False)
class UncertaintyStudy(Result):
    """One tokenizer's uncertainty by every measure that its quantizer has."""

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
    binned_errors: dict[str, BinnedError]
    shown: dict[str, np.ndarray]
    """Rows of at most NUM_SHOWN images: images, reconstructions, error, and each measure."""

    def title(self) -> str:
        """The tokenizer, the data, and how many images there are of each set."""
        return f"{self.tokenizer} on {self.data}; images: {self.image_counts()}"

    def image_counts(self) -> str:
        """How many images there are of each set."""
        return ", ".join(f"{name} {found['count']:,}" for name, found in self.identities.items())

    def conclusion(self) -> str:
        """In words, what the rank correlation over code positions says of every measure."""
        summary = [
            f"{measure_label(name)} {_relation_to_error(found['positions'])}"
            for name, found in self.correlations.items()
        ]
        return f"By Spearman's correlation over code positions: {'; '.join(summary)}."

    def table(self) -> dict[str, dict[str, object]]:
        """A row a measure: rank correlations with the error, AUROC of each shifted set."""
        return {
            measure_label(name): {
                **{f"spearman, {what}": value for what, value in found.items()},
                **{f"auroc, {what}": v for what, v in self.aurocs[name].items()},
            }
            for name, found in (self.correlations | {"error": {}}).items()
            if found or self.aurocs[name]
        }

    def rows(self) -> dict[str, object]:
        """The table in one column."""
        return {
            f"{measure}: {what}": value
            for measure, row in self.table().items()
            for what, value in row.items()
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """The images with the most uncertainty, what comes back, and maps of it."""
        return {", ".join(self.shown): grid_of_rows(self.shown)}

    @property
    def measures(self) -> dict[str, Any]:
        """Everything but the pictures, as uncertainty.json holds it."""
        return {
            "tokenizer": self.fingerprint,
            "origin": self.tokenizer,
            "method": self.method,
            "data": self.data,
            "identities": self.identities,
            "spearman": self.correlations,
            "auroc": self.aurocs,
            "calibration": {
                name: {"doubt": found.uncertainty_score.tolist(), "mse_x1000": found.error.tolist()}
                for name, found in self.binned_errors.items()
            },
        }


def measure_label(name: str) -> str:
    """A measure's name on a page, with the sign that it is measured with, and its level."""
    measure, _, level = name.partition("_level")
    return _SHOWN_AS.get(measure, measure) + (f", level {level}" if level else "")


def _relation_to_error(correlation: float | None) -> str:
    """What a doubt does, by its rank correlation with the error."""
    if correlation is None:
        return "cannot be compared, it or the error is the same everywhere"
    if abs(correlation) <= _RELATED:
        return f"hardly tells of the error ({correlation:.2f})"
    return f"{'rises' if correlation > 0 else 'falls'} with the error ({correlation:.2f})"


@dataclass(frozen=True, repr=False, eq=False)
class Uncertainty(Result):
    """Studies of one or several tokenizers on the same images."""

    studies: tuple[UncertaintyStudy, ...]

    @property
    def record(self) -> dict[str, Any]:
        """What uncertainty.json holds."""
        return {"tokenizers": [study.measures for study in self.studies]}

    def title(self) -> str:
        """The tokenizers."""
        return f"Uncertainty of {', '.join(study.tokenizer for study in self.studies)}"

    def rows(self) -> dict[str, object]:
        """Those of every study; of several, under their tokenizers' names."""
        is_one = len(self.studies) == 1
        return {
            name if is_one else f"{study.tokenizer}: {name}": value
            for study in self.studies
            for name, value in study.rows().items()
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """Those of every study."""
        return {
            f"{study.tokenizer}: {name}": pixels
            for study in self.studies
            for name, pixels in study.pictures().items()
        }


def uncertainty(
    tokenizers: Autoencoder | Path | str | Sequence[Autoencoder | Path | str],
    data: ImageInput,
    *,
    shifted: str | Path | Sequence[ImageInput] = (),
    limit: int | None = None,
    out: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Uncertainty:
    """Ask whether a tokenizer's uncertainty tells where it errs, and which images are foreign.

    Uncertainty is a Dirichlet's K / S, the entropy of code probabilities, minus the largest logit,
    or minus the margin to the second nearest code: what the quantizer has. It is compared with the
    error by rank correlation over code positions and over images, and by the AUROC of the images'
    means between `data` and each shifted set.

    tokenizers: one or several, each a Tokenizer, its folder, or a Hub id. data: the images that
    they were made for: a spec such as `cifar10:test`, a path, or any other input of images (see
    `open_inputs`). shifted: images from elsewhere, one or several inputs, or "noise". limit: only
    so many of each (at least 2). out: a folder that gets uncertainty.json and report.html.

    Raises ConfigError for a tokenizer that knows no uncertainty, one of label maps, one given twice
    and an `out` that is a file; ArtifactError and InputError for what cannot be read.

    Example: `imagetok.uncertainty("runs/a/tokenizer", "digits:test", shifted=["noise"]).rows()`
    """
    folder = output_folder(out)
    given = [tokenizers] if isinstance(tokenizers, Autoencoder | Path | str) else list(tokenizers)
    foreign = [shifted] if isinstance(shifted, str | Path) else shifted
    _check_asked(given, data)
    where = choose_device(device) if device is not None else None
    with progress_shown(progress):
        studies = tuple(_study(one, data, foreign, limit, where) for one in given)
    found = Uncertainty(studies)
    if folder is not None:
        from imagetok.analysis.uncertainty_page import write_page

        write_json(folder / "uncertainty.json", found.record)
        write_page(folder / "report.html", studies)
    return found


def _check_asked(tokenizers: Sequence[Autoencoder | Path | str], data: object) -> None:
    """Raise ConfigError for a tokenizer given twice, and for noise as what it was made for."""
    places = [one if isinstance(one, Autoencoder) else Path(one).resolve() for one in tokenizers]
    for one, place in zip(tokenizers, places, strict=True):
        if sum(other is place or other == place for other in places) > 1:
            raise ConfigError(
                f"--tokenizer: expected different ones, found {display_name(one)} twice"
            )
    if not tokenizers:
        raise ConfigError("--tokenizer: expected at least one, found none")
    if isinstance(data, str) and data == "noise":
        raise ConfigError(
            "--data noise: `noise` stands only for images of --shifted; give the images that the "
            "tokenizer was made for, for example --data cifar10:test --shifted noise"
        )


def _study(
    given: Autoencoder | Path | str,
    data: ImageInput,
    shifted: Sequence[ImageInput],
    limit: int | None,
    device: torch.device | None,
) -> UncertaintyStudy:
    """One tokenizer on its data and on shifted sets; each set is read whole, or to `limit`."""
    model = open_tokenizer(given, device)
    name, dataset = _open(data, model, limit, 0)
    scores = measure_uncertainty(model, dataset)
    aurocs: dict[str, dict[str, float]] = {m: {} for m in (*scores.maps, "error")}
    identities = {name: identity_of("doubt", dataset, len(dataset), ())}
    first = next(iter(scores.maps))
    for spec in shifted:
        other_name, others = _open(spec, model, limit, len(dataset))
        found = measure_uncertainty(model, others)
        identities[other_name] = identity_of("doubt", others, len(others), ())
        for m in scores.maps:
            pair = (of.of_images(m)[0] for of in (scores, found))
            aurocs[m][other_name] = auroc(*pair)
        pair = (of.of_images(first)[1] for of in (scores, found))
        aurocs["error"][other_name] = auroc(*pair)
    return UncertaintyStudy(
        tokenizer=display_name(given),
        fingerprint=model.fingerprint,
        method=", ".join(model.config.method),
        data=name,
        identities=identities,
        correlations={m: _correlations(scores, m) for m in scores.maps},
        aurocs=aurocs,
        binned_errors={m: binned_error(scores.maps[m], scores.errors[m]) for m in scores.maps},
        shown=_shown(model, dataset, scores),
    )


def _open(
    data: ImageInput, model: Tokenizer, limit: int | None, count: int
) -> tuple[str, ImageDataset]:
    """A dataset and its name; `noise` has as many images as the data, `count`."""
    if isinstance(data, str) and data == "noise":
        return "noise", noise_images(model.image, count)
    dataset, source = open_inputs(data, model.image)
    return source, dataset if limit is None else FirstImages(dataset, limit)


def _correlations(scores: UncertaintyScores, name: str) -> dict[str, float | None]:
    return {
        "positions": spearman(scores.maps[name].reshape(-1), scores.errors[name].reshape(-1)),
        "images": spearman(*scores.of_images(name)),
    }


@full_float32()
def _shown(
    model: Tokenizer, dataset: ImageDataset, scores: UncertaintyScores
) -> dict[str, np.ndarray]:
    first = next(iter(scores.maps))
    among = range(min(NUM_CANDIDATES, len(dataset)))
    chosen = np.argsort(-scores.of_images(first)[0][: len(among)], kind="stable")[:NUM_SHOWN]
    # In the batches that were measured, so that a test-time rule that samples draws the same.
    pairs = [
        (batch.images, model.decode(model.encode(batch.images, generator=batch.draw())))
        for batch in batches(model, dataset, among)
    ]
    images, decoded = (torch.cat(parts)[chosen.tolist()] for parts in zip(*pairs, strict=True))
    rgb = [as_pixels(part.expand(-1, 3, -1, -1).cpu()) for part in (images, decoded)]
    shown = {"image": rgb[0], "reconstruction": rgb[1]}
    size = images.shape[-2:]
    for name, maps in {"error": scores.errors[first], **scores.maps}.items():
        low, high = maps[chosen].min(), maps[chosen].max()
        scaled = torch.from_numpy((maps[chosen] - low) / max(high - low, 1e-12))
        grown = torch.nn.functional.interpolate(scaled[:, None], size=size, mode="nearest")[:, 0]
        shown[measure_label(name)] = heat_map(grown)
    return shown
