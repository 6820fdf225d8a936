"""What codes cost without a model: the yardsticks beside a prior's bits per code.

Both are learned from the training codes and applied to the held-out ones, per level, in bits:
order 0: p(k) = (n_k + 1) / (N + K), from how often each code occurs;
order 1: p(k | j) = (n_jk + d_j p(k)) / (n_j + d_j), from how often k comes after j (Witten and Bell
1991), where j is the code on the left, at the start of a row the one above, n_j counts the pairs
that begin with j and d_j how many different ones there are. The first code of a level costs what
it does at order 0.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.codes.schema import LevelUse
from prior.sequence import Codes

COLLAPSED_SHARE = 0.05


class LevelBaselines(NamedTuple):
    """Of one level of codes, in bits per held-out code."""

    unigram: float
    bigram: float


class NgramCounts:
    """How often each code, and each pair of neighbours, occurs in one level."""

    def __init__(self, num_codes: int):
        self.num_codes = num_codes
        self.counts = torch.zeros(num_codes, dtype=torch.int64)
        # Of K * K pairs only those that occur, in order: a pair is first * K + second.
        self.pairs = self.pair_counts = torch.zeros(0, dtype=torch.int64)

    def add(self, indices: Int[Tensor, "B h w"]) -> None:
        """Count the codes of some images."""
        self.counts += torch.bincount(indices.flatten(), minlength=self.num_codes)
        found, counts = self._pairs(indices).unique(return_counts=True)
        every, place = torch.cat([self.pairs, found]).unique(return_inverse=True)
        both = torch.cat([self.pair_counts, counts])
        self.pairs = every
        self.pair_counts = torch.zeros_like(every).scatter_add_(0, place, both)

    def unigram(self) -> Float[Tensor, " K"]:
        """p(k), float64."""
        return (self.counts + 1).double() / (self.counts.sum() + self.num_codes)

    def bigram(self, pairs: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        """p(second | first) of pairs, float64."""
        first, second = pairs // self.num_codes, pairs % self.num_codes
        begin = self.pairs // self.num_codes
        zeros = torch.zeros(self.num_codes, dtype=torch.int64)
        n = zeros.scatter_add(0, begin, self.pair_counts)[first]
        distinct = zeros.scatter_add(0, begin, torch.ones_like(begin))[first]
        counts = torch.cat([self.pair_counts, zeros[:1]])  # the last is for pairs never seen
        place = torch.searchsorted(self.pairs, pairs)
        known = torch.cat([self.pairs, zeros[:1] - 1])[place] == pairs
        seen = counts[torch.where(known, place, len(counts) - 1)]
        p = self.unigram()[second]
        return torch.where(n > 0, (seen + distinct * p) / (n + distinct).clamp_min(1), p)

    def bits(self, indices: Int[Tensor, "B h w"]) -> tuple[float, float]:
        """What the codes of some images cost at order 0 and 1, summed."""
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
    """The yardsticks of every level, coarse to fine."""
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
    """What is wrong with training codes that say next to nothing."""
    if use.perplexity >= max(2, COLLAPSED_SHARE * use.num_codes):
        return None
    return (
        f"the codes have collapsed: {use.codes_used} of {use.num_codes} occur, with perplexity "
        f"{use.perplexity:.3g}; a prior can learn little from them, mend the tokenizer first"
    )


def verdict_in_words(bits: float, unigram: float, bigram: float) -> str | None:
    """What is wrong with a prior's held-out bits per code."""
    if bits >= unigram:
        return (
            f"{bits:.4g} held-out bits per code, and how often each code occurs alone gives "
            f"{unigram:.4g}: so far nothing is learned of how codes depend on each other"
        )
    if bits >= bigram:
        return (
            f"{bits:.4g} held-out bits per code, and the neighbouring code alone gives "
            f"{bigram:.4g} (its frequency {unigram:.4g}): so far little is learned"
        )
    return None
