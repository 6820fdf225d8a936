"""Changes of the colours of a batch, each image by a factor of its own and in an order of its own.

The changes are those of torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation`
and `adjust_hue`, to one grey level. A result does not depend on what else is in the batch: all
values are products and sums that are rounded one by one, and means are exact.
"""

from collections.abc import Callable, Collection
from math import prod

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from imagetok.processes import without_waiting

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue, as in torchvision and PIL."""
_PIECE = 1 << 18
"""About how many values are changed at once, so that they stay in the processor's cache."""


def change_colours(
    images: UInt8[Tensor, "B C H W"],
    factors: Float64[np.ndarray, "B 4"],
    orders: Int64[np.ndarray, "B 4"],
    used: Collection[int],
) -> UInt8[Tensor, "B C H W"]:
    """Return recoloured images; see `imagetok.data.augmentation.Parameters`.

    used: the columns of `factors` that are applied.
    """
    size = max(1, _PIECE // max(1, prod(images.shape[1:])))
    changed = [
        _changed(images[rows], factors[rows], orders[rows], used)
        for rows in (slice(start, start + size) for start in range(0, len(images), size))
    ]
    return torch.cat(changed) if changed else images


def _changed(
    images: UInt8[Tensor, "B C H W"],
    factors: Float64[np.ndarray, "B 4"],
    orders: Int64[np.ndarray, "B 4"],
    used: Collection[int],
) -> UInt8[Tensor, "B C H W"]:
    values = images.float()  # whole grey levels throughout: conversions take longer than changes
    for column in orders.T:
        groups = {n: rows for n in range(4) if len(rows := np.flatnonzero(column == n))}
        parts = []
        for number, rows in groups.items():
            part = values if len(groups) == 1 else _rows(values, rows)
            if number in used:
                part = _CHANGES[number](part, factors[rows, number])
            parts.append(part)
        if len(parts) == 1:
            values = parts[0]
        else:
            values = _rows(torch.cat(parts), np.concatenate([*groups.values()]).argsort())
    return values.to(torch.uint8)


def _rows(
    values: Float32[Tensor, "B C H W"], chosen: Int64[np.ndarray, " n"]
) -> Float32[Tensor, "n C H W"]:
    return values.index_select(0, without_waiting(torch.from_numpy(chosen), values.device))


def _brightness(
    values: Float32[Tensor, "B C H W"], factors: Float64[np.ndarray, " B"]
) -> Float32[Tensor, "B C H W"]:
    return _rounded(values * _column(factors, values))


def _contrast(
    values: Float32[Tensor, "B C H W"], factors: Float64[np.ndarray, " B"]
) -> Float32[Tensor, "B C H W"]:
    # Of whole numbers, so that float64 sums are exact in any order.
    mean = _grey(values).mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()
    return _blended(values, mean, factors)


def _saturation(
    values: Float32[Tensor, "B C H W"], factors: Float64[np.ndarray, " B"]
) -> Float32[Tensor, "B C H W"]:
    return values if values.shape[1] == 1 else _blended(values, _grey(values), factors)


def _hue(
    values: Float32[Tensor, "B C H W"], factors: Float64[np.ndarray, " B"]
) -> Float32[Tensor, "B C H W"]:
    pairs = zip(values.to(torch.uint8), factors.tolist(), strict=True)
    return torch.stack([transforms.adjust_hue(image, factor) for image, factor in pairs]).float()


_CHANGES: tuple[Callable[[Tensor, np.ndarray], Tensor], ...] = (
    _brightness,
    _contrast,
    _saturation,
    _hue,
)
"""In the order of the columns of `Parameters.factors`."""


def _grey(values: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B 1 H W"]:
    """Return brightness in whole grey levels."""
    if values.shape[1] == 1:
        return values
    red, green, blue = (values[:, i : i + 1] * weight for i, weight in enumerate(_GREY))
    return red.add_(green).add_(blue).floor_()


def _blended(
    values: Float32[Tensor, "B C H W"],
    others: Float32[Tensor, "B 1 _h _w"],
    factors: Float64[np.ndarray, " B"],
) -> Float32[Tensor, "B C H W"]:
    return _rounded(values * _column(factors, values) + others * _column(1 - factors, values))


def _column(
    factors: Float64[np.ndarray, " B"], values: Float32[Tensor, "B C H W"]
) -> Float32[Tensor, "B 1 1 1"]:
    column = torch.from_numpy(factors).to(torch.float32)
    return without_waiting(column, values.device)[:, None, None, None]


def _rounded(values: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
    return values.clamp_(0, 255).floor_()
