"""Encoder uncertainty compared with reconstruction error, and on out-of-distribution images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from imagetok import seeding
from imagetok.data import ArrayImages, ImageDataset
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.batches import batches
from imagetok.images import ImageContract
from imagetok.precision import full_float32
from imagetok.tokenizers import Tokenizer

UNCERTAINTY_SIGNS: Mapping[str, int] = {
    "uncertainty": 1,
    "entropy": 1,
    "top_logit": -1,
    "margin": -1,
}
"""Map of `Quantizer.certainty` -> its sign as a measure of uncertainty."""


@dataclass(frozen=True, eq=False)
class UncertaintyScores:
    """Uncertainty and reconstruction error at every code position of a dataset's images."""

    maps: Mapping[str, Float[np.ndarray, "N h w"]]
    """Measure (with its level, if there are several) -> map; larger values are less certain."""
    errors: Mapping[str, Float[np.ndarray, "N h w"]]
    """Measure -> mean squared error, pixels in [0, 1], over the area of each code position."""

    def of_images(self, name: str) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Return the mean uncertainty and the mean error of every image."""
        return self.maps[name].mean(axis=(1, 2)), self.errors[name].mean(axis=(1, 2))


class BinnedError(NamedTuple):
    """Mean uncertainty and error of bins of code positions, most certain bin first."""

    uncertainty_score: Float[np.ndarray, " G"]
    """Mean uncertainty of each bin, in the measure's unit and sign."""
    error: Float[np.ndarray, " G"]
    """Mean squared error of each bin, x 10^3."""


def uncertainty_map(certainty: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the measure to show from the maps of `Tokenizer.encode_with_certainty`.

    Returns the maps of the Dirichlet uncertainty, or else of the entropy, one per level, by their
    names (`entropy_level0` with several levels); empty if the quantizer has neither.
    """
    for measure in ("uncertainty", "entropy"):
        found = {n: v for n, v in certainty.items() if n.partition("_level")[0] == measure}
        if found:
            return found
    return {}


@full_float32()
def measure_uncertainty(tokenizer: Tokenizer, dataset: ImageDataset) -> UncertaintyScores:
    """Measure uncertainty and error at every code position of every image.

    The result is held in memory, 4 bytes per value. Raises ConfigError for a quantizer without an
    uncertainty measure (FSQ, LFQ, residual ones) and for a tokenizer of label maps, which have no
    squared error.
    """
    if tokenizer.image.mode == "labels":
        raise ConfigError("uncertainty: expected a tokenizer of images, found one of label maps")
    maps: dict[str, list[Tensor]] = {}
    errors: dict[str, list[Tensor]] = {}
    for batch in batches(tokenizer, dataset, work="measuring uncertainty"):
        codes, certainty = tokenizer.encode_with_certainty(batch.images, generator=batch.draw())
        squares = (tokenizer.decode(codes) - batch.images).square().mean(dim=1, keepdim=True)
        for name, values in certainty.items():
            sign = UNCERTAINTY_SIGNS.get(name.partition("_level")[0])
            if sign is not None:
                rows, columns = values.shape[-2:]
                cells = adaptive_avg_pool2d(squares, (rows, columns))[:, 0]
                maps.setdefault(name, []).append((sign * values).float().cpu())
                errors.setdefault(name, []).append(cells.float().cpu())
    if not maps:
        method = ", ".join(tokenizer.config.method)
        raise ConfigError(
            f"uncertainty: the quantizer of this tokenizer ({method}) has no uncertainty measure"
        )
    return UncertaintyScores(
        {name: torch.cat(parts).numpy() for name, parts in maps.items()},
        {name: torch.cat(parts).numpy() for name, parts in errors.items()},
    )


def noise_images(contract: ImageContract, count: int) -> ArrayImages:
    """Return images of independent uniform pixels, always the same; out of any distribution."""
    shape = (count, contract.channels, contract.height, contract.width)
    pixels = torch.randint(0, 256, shape, generator=seeding.generator(0, "noise images"))
    return ArrayImages(pixels.to(torch.uint8), name="noise", split="test", contract=contract)


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return ranks from 1 for the smallest value; ties share their mean rank. No NaN allowed."""
    if np.isnan(values).any():
        raise InputError("ranks: expected numbers, found NaN")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def spearman(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float | None:
    """Return Spearman's rank correlation in [-1, 1]; None if either vector is constant."""
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else None


def auroc(inside: Float[np.ndarray, " N"], outside: Float[np.ndarray, " M"]) -> float:
    """Return the area under the ROC curve for telling `outside` from `inside` by larger values.

    Computed from the Mann-Whitney statistic: the probability that a random outside value is larger
    than a random inside value, ties counted half. 0.5 is chance level.
    """
    n, m = len(inside), len(outside)
    if n == 0 or m == 0:
        raise InputError(f"auroc: expected values on both sides, found {n} and {m}")
    above = ranks(np.concatenate([inside, outside]))[n:].sum() - m * (m + 1) / 2
    return float(above / (n * m))


def binned_error(
    uncertainty_score: Float[np.ndarray, "N h w"],
    error: Float[np.ndarray, "N h w"],
    groups: int = 10,
) -> BinnedError:
    """Sort positions by uncertainty into `groups` bins of equal size (within one) and average."""
    order = np.argsort(uncertainty_score.reshape(-1), kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    means = [
        np.array([values.reshape(-1)[part].mean(dtype=np.float64) for part in parts])
        for values in (uncertainty_score, error)
    ]
    return BinnedError(means[0], 1e3 * means[1])
