"""Accumulator of code counts and certainty statistics over the batches of a split."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from imagetok.processes import all_reduce
from imagetok.quantizers import CodebookUse, Codes, code_counts, codebook_use, level_name

MAPS = (
    *("entropy", "top_logit", "uncertainty", "variance", "margin", "encoder_norm"),
    *("commitment", "commitment_norm"),
)
"""Names of the maps that `Quantizer.certainty` can return."""
_DROPS_LAST = {128: True, 32: False}
"""Images per batch of a perplexity -> whether the last, smaller batch is left out.

The EdVAE code leaves it out, the SQ-VAE code does not. Each size divides the first.
"""
_LARGEST = max(_DROPS_LAST)


class CodeAccumulator:
    """Statistics from which all measures of a tokenizer's codes over a split are computed.

    Add batches of any sizes as returned by `Tokenizer.encode_with_certainty`; in a distributed run,
    `sum_over_processes` then combines the counts of all processes.
    """

    counts: list[Int64[Tensor, " K"]]
    """Per level: the number of uses of each code."""

    def __init__(self, num_codes: tuple[int, ...], *, keeps_maps: bool = False):
        """num_codes: codebook size per level. keeps_maps: also keep all values, for `values`."""
        levels = len(num_codes)
        self.counts = [torch.zeros(k, dtype=torch.int64) for k in num_codes]
        # Last axis: whole batches, and the last one if it is smaller.
        self._num_batches = torch.zeros(len(_DROPS_LAST), 2, dtype=torch.int64)
        self._perplexity_sums = torch.zeros(levels, len(_DROPS_LAST), 2, dtype=torch.float64)
        # Codes of the last images, fewer than _LARGEST, that are in no batch of a perplexity yet.
        self._waiting: Codes = ()
        # All possible names of maps: with several levels there may be one quantizer or several.
        self._names = [
            level_name(name, level, count)
            for count in {1, levels}
            for level in range(count)
            for name in MAPS
        ]
        self._sums = torch.zeros(len(self._names), 3, dtype=torch.float64)
        self._highest = torch.full((len(self._names),), -torch.inf)
        self._keeps_maps = keeps_maps
        self._kept: dict[str, list[Tensor]] = {}

    def add(self, codes: Codes, certainty: Mapping[str, Tensor]) -> None:
        """Add one batch: its codes, and its maps (B, h, w) from `Quantizer.certainty` by name."""
        self.counts = [
            total + code_counts(level, len(total)).cpu()
            for level, total in zip(codes, self.counts, strict=True)
        ]
        if self._waiting:
            codes = tuple(torch.cat(levels) for levels in zip(self._waiting, codes, strict=True))
        whole = len(codes[0]) // _LARGEST * _LARGEST
        self._add_batches(tuple(level[:whole] for level in codes))
        self._waiting = tuple(level[whole:] for level in codes)
        self._sums += _map_sums(certainty, self._names)
        self._highest = self._highest.maximum(_map_maxima(certainty, self._names))
        if self._keeps_maps:
            for name, values in certainty.items():
                self._kept.setdefault(name, []).append(values.flatten().cpu())

    def _add_batches(self, codes: Codes) -> None:
        """Add the perplexities of batches: whole ones, but for the last ones of a split."""
        for row, size in enumerate(_DROPS_LAST):
            for start in range(0, len(codes[0]), size):
                parts = [level[start : start + size] for level in codes]
                is_smaller = int(len(parts[0]) < size)
                self._num_batches[row, is_smaller] += 1
                for level, part in enumerate(parts):
                    use = codebook_use(code_counts(part, len(self.counts[level])))
                    self._perplexity_sums[level, row, is_smaller] += use.perplexity

    def _end(self) -> None:
        """Add the batches of the last images, once all have been added."""
        if self._waiting:
            self._add_batches(self._waiting)
        self._waiting = ()

    def sum_over_processes(self) -> None:
        """Combine the statistics of all processes; a collective that every process has to call."""
        self._end()
        self.counts = [all_reduce(level, "sum") for level in self.counts]
        self._num_batches = all_reduce(self._num_batches, "sum")
        self._perplexity_sums = all_reduce(self._perplexity_sums, "sum")
        self._sums = all_reduce(self._sums, "sum")
        self._highest = all_reduce(self._highest, "max")

    def use(self, level: int) -> CodebookUse:
        """Return codes used and perplexity of one level over the whole split."""
        return codebook_use(self.counts[level])

    def batch_perplexity(self, level: int, size: int) -> float:
        """Return the mean perplexity of one level over batches of `size` images in order.

        size: 128, where the last batch counts only if it has 128 images or is the only one, as in
        the EdVAE code, or 32, where it always counts, as in the SQ-VAE code.
        """
        self._end()
        row = list(_DROPS_LAST).index(size)
        sums, counts = self._perplexity_sums[level, row], self._num_batches[row]
        if _DROPS_LAST[size] and counts[0] > 0:
            sums, counts = sums[:1], counts[:1]
        return float(sums.sum() / counts.sum())

    def values(self) -> dict[str, Tensor]:
        """Return the values (N,) of every map on the CPU, in order; needs `keeps_maps`."""
        return {name: torch.cat(parts) for name, parts in self._kept.items()}

    def measures(self) -> dict[str, float | int]:
        """Return the measures by their names on disk; see `evaluate_reconstruction`."""
        levels = len(self.counts)
        result: dict[str, float | int] = {}
        for level in range(levels):
            use = self.use(level)
            result[level_name("perplexity", level, levels)] = use.perplexity
            result |= {
                level_name(f"perplexity_batch{size}", level, levels): self.batch_perplexity(
                    level, size
                )
                for size in _DROPS_LAST
            }
            result |= {
                level_name("codes_used", level, levels): use.codes_used,
                level_name("num_codes", level, levels): use.num_codes,
            }
        rows = zip(self._names, self._sums, self._highest, strict=True)
        measured = [row for row in rows if row[1][0] > 0]
        result |= {name: float(total / positions) for name, (positions, total, _), _ in measured}
        result |= {
            name.replace("entropy", "entropy_std"): _deviation(*row.tolist())
            for name, row, _ in measured
            if name.startswith("entropy")
        }
        return result | {
            name.replace("top", "max"): float(most)
            for name, _, most in measured
            if name.startswith("top_logit")
        }


def _map_sums(maps: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """Return (number of positions, sum, sum of squares) of every map; zeros for missing maps."""
    rows = torch.zeros(len(names), 3, dtype=torch.float64)
    for row, name in zip(rows, names, strict=True):
        if name in maps:
            values = maps[name].double()
            row[0], row[1], row[2] = values.numel(), values.sum(), values.square().sum()
    return rows


def _map_maxima(maps: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """Return the largest value of every named map; -inf for missing maps."""
    return torch.tensor([float(maps[n].max()) if n in maps else -torch.inf for n in names])


def _deviation(count: float, total: float, squares: float) -> float:
    """Return the sample standard deviation from the number, sum and sum of squares of values."""
    return math.sqrt(max(0.0, squares - total**2 / count) / max(1, count - 1))
