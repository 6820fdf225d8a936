"""Whether a tokenizer knows where it errs: its doubt beside its error, and on foreign images."""

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
from imagetok.processes import full_float32
from imagetok.tokenizers import Tokenizer

UNCERTAINTY_SIGNS: Mapping[str, int] = {
    "uncertainty": 1,
    "entropy": 1,
    "top_logit": -1,
    "margin": -1,
}
"""Maps of `Quantizer.certainty` that tell doubt, and the sign that makes more of it more doubt."""


@dataclass(frozen=True, eq=False)
class UncertaintyScores:
    """What a tokenizer doubts in the images of a dataset, and where it errs."""

    maps: Mapping[str, Float[np.ndarray, "N h w"]]
    """By name, signed so that more is more doubt; with several levels names carry the level."""
    errors: Mapping[str, Float[np.ndarray, "N h w"]]
    """By the same names: the mean squared error on [0, 1] over the pixels of each code position."""

    def of_images(self, name: str) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """The means over positions: doubt and error of every image."""
        return self.maps[name].mean(axis=(1, 2)), self.errors[name].mean(axis=(1, 2))


class BinnedError(NamedTuple):
    """Positions in groups of equal size, from the least doubt to the most."""

    uncertainty_score: Float[np.ndarray, " G"]
    """Mean of each group, in the measure's own unit and sign."""
    error: Float[np.ndarray, " G"]
    """Mean squared error of each group, x 10^3."""


def uncertainty_map(certainty: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The one measure to show of `Tokenizer.encode_with_certainty`, a map a level.

    The Dirichlet uncertainty, or else the entropy, under its own name (`entropy_level0` with
    several levels); empty where the quantizer tells neither.
    """
    for measure in ("uncertainty", "entropy"):
        found = {n: v for n, v in certainty.items() if n.partition("_level")[0] == measure}
        if found:
            return found
    return {}


@full_float32()
def measure_uncertainty(tokenizer: Tokenizer, dataset: ImageDataset) -> UncertaintyScores:
    """Doubt and error at every code position of every image; held in memory, 4 bytes a number.

    Raises ConfigError for a tokenizer whose quantizer tells no doubt (FSQ, LFQ, residual ones),
    and for one of label maps, which has no squared error.
    """
    if tokenizer.image.mode == "labels":
        raise ConfigError("uncertainty: this tokenizer is for label maps; it takes one of images")
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
        raise ConfigError(f"uncertainty: nothing of this tokenizer ({method}) tells how sure it is")
    return UncertaintyScores(
        {name: torch.cat(parts).numpy() for name, parts in maps.items()},
        {name: torch.cat(parts).numpy() for name, parts in errors.items()},
    )


def noise_images(contract: ImageContract, count: int) -> ArrayImages:
    """Images of independent uniform pixels, always the same: what no tokenizer has seen."""
    shape = (count, contract.channels, contract.height, contract.width)
    pixels = torch.randint(0, 256, shape, generator=seeding.generator(0, "noise images"))
    return ArrayImages(pixels.to(torch.uint8), name="noise", split="test", contract=contract)


def ranks(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """1 for the least; equal values share their mean rank. Raises InputError for NaN."""
    if np.isnan(values).any():
        raise InputError("ranks: expected numbers, found NaN")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def spearman(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float | None:
    """Spearman's rank correlation; None where either does not vary."""
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else None


def auroc(inside: Float[np.ndarray, " N"], outside: Float[np.ndarray, " M"]) -> float:
    """The chance that one from outside has the larger value than one from inside; ties half.

    The area under the ROC curve by the Mann-Whitney statistic; 0.5 tells nothing.
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
    """Mean doubt and error of `groups` groups of positions, equal in size to within one."""
    order = np.argsort(uncertainty_score.reshape(-1), kind="stable")
    parts = np.array_split(order, min(groups, len(order)))
    means = [
        np.array([values.reshape(-1)[part].mean(dtype=np.float64) for part in parts])
        for values in (uncertainty_score, error)
    ]
    return BinnedError(means[0], 1e3 * means[1])
