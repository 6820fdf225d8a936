"""The Frechet distance between Gaussians fitted to features (FID; Heusel et al. 2017, eq. 6)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor


@dataclass(frozen=True)
class FeatureMoments:
    """Count, mean and scatter matrix of a set of feature vectors; `join` merges two sets.

    The scatter is taken about the mean, because sums of raw squares lose precision if the mean is
    large compared with the standard deviation.
    """

    count: int
    mean: Float[Tensor, " F"]
    scatter: Float[Tensor, "F F"]

    @classmethod
    def of(cls, features: Num[Tensor, "N F"]) -> "FeatureMoments":
        """Compute the moments of a set of features, in float64."""
        rows = features.double()
        mean = rows.mean(dim=0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def join(self, other: "FeatureMoments") -> "FeatureMoments":
        """Return the moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        count, apart = self.count + other.count, other.mean - self.mean
        between = apart.outer(apart) * (self.count * other.count / count)
        mean = self.mean + apart * (other.count / count)
        return FeatureMoments(count, mean, self.scatter + other.scatter + between)

    def gaussian(self) -> tuple[Float[Tensor, " F"], Float[Tensor, "F F"]]:
        """Return mean and unbiased covariance; needs at least two feature vectors."""
        return self.mean, self.scatter / (self.count - 1)


def frechet_distance(one: FeatureMoments, other: FeatureMoments) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), clamped at 0.

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    is symmetric: no general matrix root is needed, and singular covariances (fewer images than
    features) need no regularisation.
    """
    (m1, c1), (m2, c2) = one.gaussian(), other.gaussian()
    values, vectors = torch.linalg.eigh(c1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ c2 @ root).clamp_min(0).sqrt().sum()
    distance = (m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * overlap
    return max(0.0, float(distance))
