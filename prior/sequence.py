"""Codes as a sequence: levels coarse to fine, each in raster order."""

import torch
from jaxtyping import Int
from torch import Tensor

# An underscore leaves an axis unchecked: each level has a grid of its own.
Codes = tuple[Int[Tensor, "B _h _w"], ...]


def flatten_codes(codes: Codes) -> Int[Tensor, "B T"]:
    """All codes of every image in sampling order, each counted within its own level."""
    return torch.cat([level.flatten(1) for level in codes], dim=1)


def unflatten_codes(sequence: Int[Tensor, "B T"], grids: tuple[tuple[int, int], ...]) -> Codes:
    """The inverse of `flatten_codes`."""
    parts = sequence.split([h * w for h, w in grids], dim=1)
    return tuple(
        part.reshape(len(sequence), h, w) for part, (h, w) in zip(parts, grids, strict=True)
    )


def level_of_positions(grids: tuple[tuple[int, int], ...]) -> list[int]:
    """The level that each position of the sequence belongs to."""
    return [level for level, (h, w) in enumerate(grids) for _ in range(h * w)]
