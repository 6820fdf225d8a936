"""N-gram baselines for a prior's bits per code.

Both are fitted to the training codes and evaluated on the held-out codes, per level, in bits:
unigram (order 0): p(k) = (n_k + 1) / (N + K), from the frequency of each code;
bigram (order 1): p(k | j) = (n_jk + d_j p(k)) / (n_j + d_j), from the frequency of k after j
(Witten and Bell 1991). Here j is the code to the left, or above at the start of a row, n_j the
number of pairs that begin with j, and d_j the number of different ones. The first code of a level
has its unigram probability.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.codes.schema import LevelUse
from prior.sequence import Codes

COLLAPSED_SHARE = 0.05


class LevelBaselines(NamedTuple):
    """Baselines of one level, in bits per held-out code."""

    unigram: float
    bigram: float


class NgramCounts:
    """Counts of codes and of pairs of neighbouring codes in one level."""

    def __init__(self, num_codes: int):
        self.num_codes = num_codes
        self.counts = torch.zeros(num_codes, dtype=torch.int64)
        # Only the pairs that occur, sorted; a pair is stored as first * K + second.
        self.pairs = self.pair_counts = torch.zeros(0, dtype=torch.int64)

    def add(self, indices: Int[Tensor, "B h w"]) -> None:
        """Add the codes of some images."""
        self.counts += torch.bincount(indices.flatten(), minlength=self.num_codes)
        found, counts = self._pairs(indices).unique(return_counts=True)
        every, place = torch.cat([self.pairs, found]).unique(return_inverse=True)
        both = torch.cat([self.pair_counts, counts])
        self.pairs = every
        self.pair_counts = torch.zeros_like(every).scatter_add_(0, place, both)

    def unigram(self) -> Float[Tensor, " K"]:
        """Return the unigram probabilities p(k), float64."""
        return (self.counts + 1).double() / (self.counts.sum() + self.num_codes)

    def bigram(self, pairs: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Return the bigram probabilities p(second | first) of pairs, float64."""
        first, second = pairs // self.num_codes, pairs % self.num_codes
        begin = self.pairs // self.num_codes
        zeros = torch.zeros(self.num_codes, dtype=torch.int64)
        n = zeros.scatter_add(0, begin, self.pair_counts)[first]
        distinct = zeros.scatter_add(0, begin, torch.ones_like(begin))[first]
        counts = torch.cat([self.pair_counts, zeros[:1]])  # the last is for unseen pairs
        place = torch.searchsorted(self.pairs, pairs)
        known = torch.cat([self.pairs, zeros[:1] - 1])[place] == pairs
        seen = counts[torch.where(known, place, len(counts) - 1)]
        p = self.unigram()[second]
        return torch.where(n > 0, (seen + distinct * p) / (n + distinct).clamp_min(1), p)

    def bits(self, indices: Int[Tensor, "B h w"]) -> tuple[float, float]:
        """Return the total bits of the codes of some images under unigram and bigram model."""
        p = self.unigram()
        unigram = -p[indices].log2().sum()
        first = -p[indices[:, 0, 0]].log2().sum()
        return float(unigram), float(first - self.bigram(self._pairs(indices)).log2().sum())

    def _pairs(self, indices: Int[Tensor, "B h w"]) -> Int[Tensor, " N"]:
        across = indices[:, :, :-1] * self.num_codes + indices[:, :, 1:]
        down = indices[:, :-1, 0] * self.num_codes + indices[:, 1:, 0]
        return torch.cat([across.flatten(), down.flatten()])


def ngram_baselines(
    num_codes: tuple[int, ...], training: Iterable[Codes], held_out: Iterable[Codes]
) -> list[LevelBaselines]:
    """Compute the baselines of every level, coarse to fine."""
    levels = [NgramCounts(k) for k in num_codes]
    for codes in training:
        for level, indices in zip(levels, codes, strict=True):
            level.add(indices)
    totals = [[0.0, 0.0, 0] for _ in levels]
    for codes in held_out:
        for level, total, indices in zip(levels, totals, codes, strict=True):
            unigram, bigram = level.bits(indices)
            total[:] = total[0] + unigram, total[1] + bigram, total[2] + indices.numel()
    return [LevelBaselines(unigram / n, bigram / n) for unigram, bigram, n in totals]


def collapse_in_words(use: LevelUse) -> str | None:
    """Return a warning if the training codes have collapsed, else None."""
    if use.perplexity >= max(2, COLLAPSED_SHARE * use.num_codes):
        return None
    return (
        f"the codes have collapsed: {use.codes_used} of {use.num_codes} occur, with perplexity "
        f"{use.perplexity:.3g}; a prior can learn little from them, fix the tokenizer first"
    )


def verdict_in_words(
    bits: float, unigram: float, bigram: float, best: float = math.inf
) -> str | None:
    """Return a warning if a prior is no better than a baseline, else None.

    best: the fewest held-out bits of earlier evaluations.
    """
    if best < bigram <= bits:
        return (
            f"{bits:.4g} held-out bits per code, after {best:.4g} earlier: the prior learns its "
            "training codes by heart. `export: best` exports the weights that were best; more "
            "images, `encode --views` or fewer steps help"
        )
    if bits >= unigram:
        return (
            f"{bits:.4g} held-out bits per code are no better than the unigram baseline, "
            f"{unigram:.4g}: the prior has not learned any dependence between codes yet"
        )
    if bits >= bigram:
        return (
            f"{bits:.4g} held-out bits per code are no better than the bigram baseline, "
            f"{bigram:.4g} (unigram {unigram:.4g}): the prior has learned little yet"
        )
    return None
