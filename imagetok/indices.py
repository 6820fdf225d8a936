"""Indices of samples: evenly spread ones, and those that datasets take, of any integer type."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex, TypeGuard

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from imagetok.suggestions import counted

SeveralIndices = Sequence[int] | np.ndarray | Tensor
"""A list, range, array or tensor of integers, or a boolean mask over all samples."""


def spread(total: int, count: int) -> Sequence[int]:
    """Return `count` indices below `total`, or all if there are fewer, evenly spread from 0 on."""
    return range(total) if count >= total else [i * total // count for i in range(count)]


def is_several(index: object) -> TypeGuard[SeveralIndices]:
    """Return whether an index stands for several samples; a scalar array or tensor does not."""
    return isinstance(index, np.ndarray | Tensor | Sequence) and np.ndim(index) > 0


def checked_index(index: SupportsIndex, length: int) -> int:
    """Return an index >= 0; a negative one counts from the end.

    Raises IndexError for one outside, TypeError for anything but an integer.
    """
    number = operator.index(index)
    if not -length <= number < length:
        raise IndexError(f"index {number} is out of range for {counted(length, 'sample')}")
    return number % length


def checked_indices(indices: SeveralIndices, length: int) -> Int64[np.ndarray, " n"]:
    """Return indices of any integer type, or those that a mask chooses, as integers >= 0.

    Raises IndexError for one outside, TypeError for anything else.
    """
    given = indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iub"):
        raise TypeError(
            "expected an integer, a slice, or integers or booleans in one dimension as index, "
            f"found {given.dtype} of shape {given.shape}"
        )
    if given.dtype == np.bool_:
        if len(given) != length:
            raise IndexError(
                f"expected a mask over {counted(length, 'sample')}, found one over {len(given)}"
            )
        return np.flatnonzero(given)
    wanted = given.astype(np.int64)
    if len(wanted):
        lowest = int(wanted.min())
        checked_index(lowest, length)
        checked_index(int(wanted.max()), length)
        if lowest < 0:
            wanted = np.where(wanted < 0, wanted + length, wanted)
    return wanted
