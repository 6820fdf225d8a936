"""Checks of code maps that a caller passes to a tokenizer or a prior."""

from collections.abc import Sequence

import torch
from torch import Tensor

from imagetok.errors import InputError
from imagetok.suggestions import counted


def check_codes(
    codes: object,
    num_codes: Sequence[int],
    grids: Sequence[tuple[int, int]],
    *,
    values: bool = True,
) -> tuple[Tensor, ...]:
    """Return codes as int64 maps; raise InputError if they do not fit.

    codes: a tuple or list of integer tensors (B, h, w), coarse to fine, of any integer type.
    num_codes, grids: codebook size and (h, w) of each level. The message names the level.
    values: False checks shapes and types alone, for codes whose values were checked before; of a
    GPU's, each check of values waits for it.
    """
    if not isinstance(codes, tuple | list) or len(codes) != len(num_codes):
        is_list = isinstance(codes, tuple | list)
        found = counted(len(codes), "level") if is_list else type(codes).__name__
        hint = "; pass (codes,), a tuple of one level" if isinstance(codes, Tensor) else ""
        raise InputError(
            f"expected a tuple of {counted(len(num_codes), 'code map')}, found {found}{hint}"
        )
    maps = []
    for level, (indices, k, grid) in enumerate(zip(codes, num_codes, grids, strict=True)):
        _check_level(level, indices, k, grid, values)
        maps.append(indices.long())
    if len({len(indices) for indices in maps}) > 1:
        sizes = ", ".join(str(len(indices)) for indices in maps)
        raise InputError(f"expected the same number of images at every level, found {sizes}")
    return tuple(maps)


def grids_shown(grids: Sequence[tuple[int, int]]) -> str:
    """Return the sizes of the grids of codes, coarse to fine, as text: `4 x 6 and 8 x 12`."""
    return " and ".join(f"{h} x {w}" for h, w in grids)


def _check_level(level: int, indices: object, k: int, grid: tuple[int, int], values: bool) -> None:
    if not isinstance(indices, Tensor):
        raise InputError(
            f"level {level}: expected codes as a torch tensor, found {type(indices).__name__}; "
            "pass torch.as_tensor(codes)"
        )
    if indices.ndim != 3 or tuple(indices.shape[1:]) != tuple(grid):
        raise InputError(
            f"level {level}: expected codes of shape (B, {grid[0]}, {grid[1]}), "
            f"found {tuple(indices.shape)}"
        )
    dtype = indices.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise InputError(f"level {level}: expected integer codes, found {dtype}")
    if indices.numel() and values:
        low, high = (int(v) for v in indices.long().aminmax())
        if low < 0 or high >= k:
            raise InputError(
                f"level {level}: expected codes in [0, {k}), found [{low}, {high}]; "
                "they may be codes of another tokenizer"
            )
