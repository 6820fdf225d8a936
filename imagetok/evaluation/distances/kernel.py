"""The kernel distance of two sets of features (KID: Binkowski et al. 2018)."""

import torch
from jaxtyping import Num
from torch import Tensor

BLOCK = 2048


def kernel_distance(one: Num[Tensor, "N F"], other: Num[Tensor, "M F"]) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x y / F + 1)^3.

    Over all pairs, where KID is often printed as a mean over random subsets: the same expectation,
    a smaller variance, and nothing drawn. May be a little below 0. Two of each or more.
    """
    n, m = len(one), len(other)
    between = _kernel_sum(one, other) / (n * m)
    return float(_mean_within(one) + _mean_within(other) - 2 * between)


def _mean_within(features: Tensor) -> Tensor:
    """Over all pairs of different members."""
    rows, count = features.double(), len(features)
    itself = (rows.square().sum(dim=1) / rows.shape[1] + 1).pow(3).sum()
    return (_kernel_sum(features, features) - itself) / (count * (count - 1))


def _kernel_sum(one: Tensor, other: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for rows in one.split(BLOCK):
        for columns in other.split(BLOCK):
            total += (rows.double() @ columns.double().T / rows.shape[1] + 1).pow(3).sum()
    return total
