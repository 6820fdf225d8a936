"""Does uncertainty predict reconstruction error, and detect out-of-distribution images?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagetok.arguments import checked_count
from imagetok.data import ImageDataset
from imagetok.data.inputs import ImageInput, open_inputs
from imagetok.data.readable import advising_to_skip, readable
from imagetok.data.subset import FirstImages
from imagetok.data.unreadable import Unreadable, left_out_words
from imagetok.durable import write_json
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import batches, evaluation_batch
from imagetok.evaluation.records import identity_of
from imagetok.evaluation.uncertainty_scores import (
    BinnedError,
    UncertaintyScores,
    auroc,
    binned_error,
    measure_uncertainty,
    noise_images,
    spearman,
)
from imagetok.io.output_paths import output_folder
from imagetok.pictures import as_pixels, class_labels, grid_of_rows, heat_map
from imagetok.precision import full_float32
from imagetok.processes import choose_device
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import display_name, open_tokenizer

NUM_SHOWN = 8
NUM_CANDIDATES = 256  # the most uncertain of the first 256 images are shown
_SHOWN_AS = {"top_logit": "minus the largest logit", "margin": "minus the margin"}
_RELATED = 0.2  # smallest rank correlation that is reported as a relation


@dataclass(frozen=True, repr=False, eq=False)
class UncertaintyStudy(Result):
    """Study of one tokenizer, for every uncertainty measure that its quantizer has."""

    tokenizer: str
    fingerprint: str
    method: str
    data: str
    identities: dict[str, dict[str, Any]]
    """Name of a dataset -> what its numbers depend on; the data first, then each shifted set."""
    correlations: dict[str, dict[str, float | None]]
    """Measure -> Spearman's rank correlation with the error, over `positions` and `images`."""
    aurocs: dict[str, dict[str, float]]
    """Measure (or `error`, for comparison) -> shifted set -> AUROC of telling it from the data."""
    binned_errors: dict[str, BinnedError]
    skipped: tuple[Unreadable, ...]
    """Images of all these datasets that are left out, because they cannot be read."""
    shown: dict[str, np.ndarray]
    """Rows of at most NUM_SHOWN pictures: images, reconstructions, errors, and each measure."""
    classes: tuple[str, ...] = ()
    """Class names of those images; "" for no class."""

    def title(self) -> str:
        """Return a title: the tokenizer, the data and the number of images of each dataset."""
        return f"{self.tokenizer} on {self.image_counts()}"

    def image_counts(self) -> str:
        """Return the number of images of each dataset as text, and how many are left out."""
        *others, last = (
            f"{counted(found['count'], 'image')} of {name}"
            for name, found in self.identities.items()
        )
        counts = " and ".join(filter(None, (", ".join(others), last)))
        return counts + left_out_words(len(self.skipped))

    def conclusion(self) -> str:
        """Return a sentence on how every measure correlates with the error over code positions."""
        summary = [
            f"{measure_label(name)} {_relation_to_error(found['positions'])}"
            for name, found in self.correlations.items()
        ]
        return f"Spearman's rank correlation over code positions: {'; '.join(summary)}."

    def table(self) -> dict[str, dict[str, object]]:
        """Return a row per measure: rank correlations with the error, AUROC of each shifted set."""
        return {
            measure_label(name): {
                **{f"Spearman, {what}": value for what, value in found.items()},
                **{f"AUROC, {what}": v for what, v in self.aurocs[name].items()},
            }
            for name, found in (self.correlations | {"error": {}}).items()
            if found or self.aurocs[name]
        }

    def rows(self) -> dict[str, object]:
        """Return the table flattened to one column."""
        return {
            f"{measure}: {what}": value
            for measure, row in self.table().items()
            for what, value in row.items()
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the most uncertain images with reconstructions, error and uncertainty maps."""
        return {", ".join(self.shown): grid_of_rows(self.shown)}

    @property
    def measures(self) -> dict[str, Any]:
        """All numbers of the study, as in uncertainty.json."""
        return {
            "tokenizer": self.fingerprint,
            "origin": self.tokenizer,
            "method": self.method,
            "data": self.data,
            "identities": self.identities,
            **({"skipped": [asdict(image) for image in self.skipped]} if self.skipped else {}),
            "spearman": self.correlations,
            "auroc": self.aurocs,
            "calibration": {
                name: {"doubt": found.uncertainty_score.tolist(), "mse_x1000": found.error.tolist()}
                for name, found in self.binned_errors.items()
            },
        }


def measure_label(name: str) -> str:
    """Return the display name of a measure, with its sign and level."""
    measure, _, level = name.partition("_level")
    return _SHOWN_AS.get(measure, measure) + (f", level {level}" if level else "")


def _relation_to_error(correlation: float | None) -> str:
    """Describe the relation of a measure to the error from their rank correlation."""
    if correlation is None:
        return "is undefined, because it or the error is constant"
    if abs(correlation) <= _RELATED:
        return f"is hardly correlated with the error ({correlation:.2f})"
    return f"{'rises' if correlation > 0 else 'falls'} with the error ({correlation:.2f})"


@dataclass(frozen=True, repr=False, eq=False)
class Uncertainty(Result):
    """The result of `uncertainty`: studies of one or several tokenizers on the same images."""

    studies: tuple[UncertaintyStudy, ...]

    @property
    def record(self) -> dict[str, Any]:
        """Content of uncertainty.json."""
        return {"tokenizers": [study.measures for study in self.studies]}

    def title(self) -> str:
        """Return a title that names the tokenizers."""
        return f"Uncertainty of {', '.join(study.tokenizer for study in self.studies)}"

    def rows(self) -> dict[str, object]:
        """Return the rows of every study, prefixed by the tokenizer if there are several."""
        is_one = len(self.studies) == 1
        return {
            name if is_one else f"{study.tokenizer}: {name}": value
            for study in self.studies
            for name, value in study.rows().items()
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the pictures of every study, prefixed by the tokenizer's name."""
        return {
            f"{study.tokenizer}: {name}": pixels
            for study in self.studies
            for name, pixels in study.pictures().items()
        }


@advising_to_skip()
def uncertainty(
    tokenizers: Autoencoder | Path | str | Sequence[Autoencoder | Path | str],
    data: ImageInput,
    *,
    shifted: str | Path | Sequence[ImageInput] = (),
    limit: int | None = None,
    out: Path | str | None = None,
    max_skip: int | str = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Uncertainty:
    """Test whether encoder uncertainty predicts reconstruction error and detects shifted data.

    Uncertainty is, depending on the quantizer, K / S of a Dirichlet, the entropy of the code
    probabilities, minus the largest logit, or minus the margin to the second nearest code. It is
    compared with the error by Spearman's rank correlation, over code positions and over images.
    For each shifted set, the AUROC of the mean uncertainty per image against `data` is computed.

    tokenizers: one or several, each a Tokenizer, its folder, or a Hub id. data: in-distribution
    images: a spec such as `cifar10:test`, a path, or any other image input (see `open_inputs`).
    shifted: out-of-distribution images, one or several inputs, or "noise". limit: largest number
    of images of each dataset (at least 2). out: a folder for uncertainty.json and report.html.
    max_skip: unreadable images of each dataset to leave out, a count or a percentage such as "1%".

    Raises ConfigError for a tokenizer without an uncertainty measure, one of label maps, one that
    occurs twice, and if `out` is a file; ArtifactError and InputError for unreadable tokenizers
    and images.

    Example: `imagetok.uncertainty("runs/a/tokenizer", "digits:test", shifted=["noise"]).rows()`
    """
    folder = output_folder(out)
    given = [tokenizers] if isinstance(tokenizers, Autoencoder | Path | str) else list(tokenizers)
    others = [shifted] if isinstance(shifted, str | Path) else shifted
    _check_asked(given, data)
    if limit is not None:
        limit = checked_count("limit", limit, least=2)
    where = choose_device(device) if device is not None else None
    with progress_shown(progress):
        studies = tuple(_study(one, data, others, limit, max_skip, where) for one in given)
    found = Uncertainty(studies)
    if folder is not None:
        from imagetok.analysis.uncertainty_page import write_page

        write_json(folder / "uncertainty.json", found.record)
        write_page(folder / "report.html", studies)
    return found


def _check_asked(tokenizers: Sequence[Autoencoder | Path | str], data: object) -> None:
    """Raise ConfigError if there is no tokenizer, if one occurs twice, or if `data` is noise."""
    places = [one if isinstance(one, Autoencoder) else Path(one).resolve() for one in tokenizers]
    for one, place in zip(tokenizers, places, strict=True):
        if sum(other is place or other == place for other in places) > 1:
            raise ConfigError(
                f"--tokenizer: expected different tokenizers, found {display_name(one)} twice"
            )
    if not tokenizers:
        raise ConfigError("--tokenizer: expected at least one tokenizer, found none")
    if isinstance(data, str) and data == "noise":
        raise ConfigError(
            "--data noise: `noise` is only accepted by --shifted; pass in-distribution images as "
            "--data, for example --data cifar10:test --shifted noise"
        )


def _study(
    given: Autoencoder | Path | str,
    data: ImageInput,
    shifted: Sequence[ImageInput],
    limit: int | None,
    max_skip: int | str,
    device: torch.device | None,
) -> UncertaintyStudy:
    """Study one tokenizer on its data and on the shifted sets, at most `limit` images of each."""
    model = open_tokenizer(given, device)
    name, dataset = _open(data, model, limit, max_skip, 0)
    skipped = dataset.skipped
    scores = measure_uncertainty(model, dataset)
    aurocs: dict[str, dict[str, float]] = {m: {} for m in (*scores.maps, "error")}
    identities = {name: identity_of("doubt", dataset, len(dataset), ())}
    first = next(iter(scores.maps))
    for spec in shifted:
        other_name, others = _open(spec, model, limit, max_skip, len(dataset))
        skipped += others.skipped
        found = measure_uncertainty(model, others)
        identities[other_name] = identity_of("doubt", others, len(others), ())
        for m in scores.maps:
            pair = (of.of_images(m)[0] for of in (scores, found))
            aurocs[m][other_name] = auroc(*pair)
        pair = (of.of_images(first)[1] for of in (scores, found))
        aurocs["error"][other_name] = auroc(*pair)
    shown, classes = _shown(model, dataset, scores)
    return UncertaintyStudy(
        tokenizer=display_name(given),
        fingerprint=model.fingerprint,
        method=", ".join(model.config.method),
        data=name,
        identities=identities,
        correlations={m: _correlations(scores, m) for m in scores.maps},
        aurocs=aurocs,
        binned_errors={m: binned_error(scores.maps[m], scores.errors[m]) for m in scores.maps},
        skipped=skipped,
        shown=shown,
        classes=classes,
    )


def _open(
    data: ImageInput, model: Tokenizer, limit: int | None, max_skip: int | str, count: int
) -> tuple[str, ImageDataset]:
    """Open a dataset and return its name too; `noise` has `count` images, as many as the data."""
    if isinstance(data, str) and data == "noise":
        return "noise", noise_images(model.image, count)
    dataset, source = open_inputs(data, model.image)
    dataset = dataset if limit is None else FirstImages(dataset, limit)
    return source, readable(dataset, max_skip)


def _correlations(scores: UncertaintyScores, name: str) -> dict[str, float | None]:
    return {
        "positions": spearman(scores.maps[name].reshape(-1), scores.errors[name].reshape(-1)),
        "images": spearman(*scores.of_images(name)),
    }


@full_float32()
def _shown(
    model: Tokenizer, dataset: ImageDataset, scores: UncertaintyScores
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the most uncertain images with their maps, and the names of their classes."""
    first = next(iter(scores.maps))
    among = range(min(NUM_CANDIDATES, len(dataset)))
    chosen = np.argsort(-scores.of_images(first)[0][: len(among)], kind="stable")[:NUM_SHOWN]
    pairs: dict[int, tuple[Tensor, Tensor]] = {}
    # In the measured batches, so that a quantizer that samples in eval mode draws the same codes.
    for batch in batches(model, dataset, among):
        start = batch.number * evaluation_batch(model.image)
        rows = [i - start for i in chosen.tolist() if 0 <= i - start < len(batch.images)]
        if rows:
            decoded = model.decode(model.encode(batch.images, generator=batch.draw()))
            pairs |= {start + row: (batch.images[row], decoded[row]) for row in rows}
    images, decoded = map(torch.stack, zip(*(pairs[i] for i in chosen.tolist()), strict=True))
    rgb = [as_pixels(part.expand(-1, 3, -1, -1).cpu()) for part in (images, decoded)]
    shown = {"image": rgb[0], "reconstruction": rgb[1]}
    size = images.shape[-2:]
    for name, maps in {"error": scores.errors[first], **scores.maps}.items():
        low, high = maps[chosen].min(), maps[chosen].max()
        scaled = torch.from_numpy((maps[chosen] - low) / max(high - low, 1e-12))
        grown = torch.nn.functional.interpolate(scaled[:, None], size=size, mode="nearest")[:, 0]
        shown[measure_label(name)] = heat_map(grown)
    labels = dataset.read(chosen.tolist()).labels.tolist()
    return shown, tuple(class_labels(labels, dataset.class_names))
