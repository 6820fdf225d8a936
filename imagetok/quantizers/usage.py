"""One definition per measure of codebook use, from hard indices."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CodebookUse(NamedTuple):
    """How one level's codebook is used over a split (or over one batch, where so named)."""

    num_codes: int
    codes_used: int
    """Codes that occur at least once."""
    perplexity: float
    """exp of the entropy of the code frequencies: 1 for one code, K for uniform use."""


def code_counts(indices: Int[Tensor, "..."], num_codes: int) -> Int[Tensor, " K"]:
    """How often each code occurs."""
    flat = indices.flatten().long()
    counts = flat.new_zeros(num_codes)
    return counts.scatter_add_(0, flat, torch.ones_like(flat))  # bincount would wait for a GPU


def codebook_use(counts: Int[Tensor, " K"] | Float[Tensor, " K"]) -> CodebookUse:
    """Usage and perplexity of counted codes.

    The plug-in entropy is biased low for few positions, so perplexities of batches of different
    size must not be compared.
    """
    counts = counts.cpu()  # not every device has float64
    frequencies = counts.double() / counts.sum().clamp_min(1)
    entropy = -torch.special.xlogy(frequencies, frequencies).sum()
    return CodebookUse(len(counts), int((counts > 0).sum()), float(entropy.exp()))
