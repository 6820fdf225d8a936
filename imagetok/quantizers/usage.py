"""Codebook utilisation: codes used and perplexity, from hard codes."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CodebookUse(NamedTuple):
    """Codebook utilisation of one level, over a split or a batch."""

    num_codes: int
    codes_used: int
    """Number of codes that occur at least once."""
    perplexity: float
    """exp of the entropy of the code frequencies: 1 if one code is used, K for uniform use."""


def code_counts(indices: Int[Tensor, "..."], num_codes: int) -> Int[Tensor, " K"]:
    """Return the number of occurrences of each code."""
    flat = indices.flatten().long()
    counts = flat.new_zeros(num_codes)
    return counts.scatter_add_(0, flat, torch.ones_like(flat))  # bincount synchronises with a GPU


def codebook_use(counts: Int[Tensor, " K"] | Float[Tensor, " K"]) -> CodebookUse:
    """Compute codes used and perplexity from the counts of all codes.

    The plug-in estimate of the entropy is too low for few positions, so perplexities of batches of
    different sizes are not comparable.
    """
    counts = counts.cpu()  # not every device supports float64
    frequencies = counts.double() / counts.sum().clamp_min(1)
    entropy = -torch.special.xlogy(frequencies, frequencies).sum()
    return CodebookUse(len(counts), int((counts > 0).sum()), float(entropy.exp()))
