"""Improved precision and recall (Kynkaanniemi et al. 2019)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from imagetok.errors import ConfigError

BLOCK = 1024


def precision_recall(
    generated: Float[Tensor, "N F"], real: Float[Tensor, "M F"], k: int = 3
) -> tuple[float, float]:
    """Return precision and recall, both in [0, 1].

    Precision is the share of generated features inside the manifold of the real ones, recall the
    share of real features inside the manifold of the generated ones. The manifold of a set is the
    union of balls around its members, with the distance to the k-th nearest other member as the
    radius. Squared distances are computed in float64, in blocks (memory: one block times a set).
    Both values depend on the sizes of the sets.

    Raises ConfigError for k or fewer features.
    """
    for name, features in (("generated", generated), ("real", real)):
        if len(features) <= k:
            raise ConfigError(
                f"precision and recall need more than k = {k} {name} images, found {len(features)}"
            )
    precision = _is_covered(generated, real, _radii(real, k))
    recall = _is_covered(real, generated, _radii(generated, k))
    return float(precision.double().mean()), float(recall.double().mean())


def _radii(features: Tensor, k: int) -> Float[Tensor, " N"]:
    """Return the squared distance of every feature to its k-th nearest neighbour."""
    return torch.cat(
        [
            _squared(block, features).kthvalue(k + 1, dim=1).values  # the nearest is itself
            for block in features.split(BLOCK)
        ]
    )


def _is_covered(features: Tensor, others: Tensor, radii: Tensor) -> Bool[Tensor, " N"]:
    return torch.cat(
        [(_squared(block, others) <= radii).any(dim=1) for block in features.split(BLOCK)]
    )


def _squared(rows: Tensor, columns: Tensor) -> Float[Tensor, "N M"]:
    """Return squared distances as |x|^2 - 2 x y + |y|^2, with a matrix product in float64."""
    x, y = rows.double(), columns.double()
    squares = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return (squares - 2 * x @ y.T).clamp_min(0)
