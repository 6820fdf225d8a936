"""Codes as a sequence: levels from coarse to fine, each in raster order."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from imagetok.errors import ConfigError

# jaxtyping does not check axes that begin with an underscore: each level has its own grid.
Codes = tuple[Int[Tensor, "B _h _w"], ...]


def flatten_codes(codes: Codes) -> Int[Tensor, "B T"]:
    """Return all codes of every image in sampling order, (B, T); codes of each level begin at 0."""
    return torch.cat([level.flatten(1) for level in codes], dim=1)


def unflatten_codes(
    sequence: Shaped[Tensor, "B T"], grids: tuple[tuple[int, int], ...]
) -> tuple[Shaped[Tensor, "B _h _w"], ...]:
    """Invert `flatten_codes`; works for any values per position. Returns (B, h, w) per level."""
    parts = sequence.split([h * w for h, w in grids], dim=1)
    return tuple(
        part.reshape(len(sequence), h, w) for part, (h, w) in zip(parts, grids, strict=True)
    )


def level_of_positions(grids: tuple[tuple[int, int], ...]) -> list[int]:
    """Return the level of each position of the sequence."""
    return [level for level, (h, w) in enumerate(grids) for _ in range(h * w)]


def kept_positions(grids: tuple[tuple[int, int], ...], keep_rows: int) -> list[bool]:
    """Return for each position of the sequence whether it is in the upper rows of its level.

    keep_rows: rows of the level with the fewest rows; of a finer level, the rows that cover the
    same part of the image. Raises ConfigError for more rows than there are, and if that is not a
    whole number of rows at every level.
    """
    fewest = min(h for h, _ in grids)
    if not isinstance(keep_rows, int) or not 0 <= keep_rows <= fewest:
        sizes = " and ".join(f"{h} x {w}" for h, w in grids)
        raise ConfigError(
            f"keep_rows: expected 0 to {fewest} (the codes are {sizes}), found {keep_rows!r}"
        )
    if any(keep_rows * h % fewest for h, _ in grids):
        possible = [n for n in range(fewest + 1) if all(n * h % fewest == 0 for h, _ in grids)]
        raise ConfigError(
            f"keep_rows: {keep_rows} of {fewest} rows is no whole number of rows at every level "
            f"({', '.join(str(h) for h, _ in grids)} rows); possible: {possible}"
        )
    return [row * fewest < keep_rows * h for h, w in grids for row in range(h) for _ in range(w)]
