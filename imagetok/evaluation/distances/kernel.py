"""The kernel distance between two sets of features (KID; Binkowski et al. 2018)."""

import torch
from jaxtyping import Num
from torch import Tensor

BLOCK = 2048


def kernel_distance(one: Num[Tensor, "N F"], other: Num[Tensor, "M F"]) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel (x y / F + 1)^3.

    Computed over all pairs. KID is often reported as a mean over random subsets, which has the same
    expectation, a larger variance and needs random numbers. May be slightly negative. Each set
    needs at least two members.
    """
    n, m = len(one), len(other)
    between = _kernel_sum(one, other) / (n * m)
    return float(_mean_within(one) + _mean_within(other) - 2 * between)


def _mean_within(features: Tensor) -> Tensor:
    """Return the mean kernel value over all pairs of different members."""
    rows, count = features.double(), len(features)
    itself = (rows.square().sum(dim=1) / rows.shape[1] + 1).pow(3).sum()
    return (_kernel_sum(features, features) - itself) / (count * (count - 1))


def _kernel_sum(one: Tensor, other: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for rows in one.split(BLOCK):
        for columns in other.split(BLOCK):
            total += (rows.double() @ columns.double().T / rows.shape[1] + 1).pow(3).sum()
    return total
