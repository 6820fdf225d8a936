"""Weights and images that are drawn, so that they need not be stored: the same on any machine."""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def drawn_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Draw a network's tensors, each from a seed of its name, so that no layer is idle."""
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def drawn_images(count: int = 2, size: int = 32) -> Tensor:
    """Pixels (count, 3, size, size) in [0, 1], with large and small structures."""
    draw = np.random.RandomState(0)
    coarse = draw.randint(0, 256, (count, 3, size // 8, size // 8)).repeat(8, 2).repeat(8, 3)
    fine = draw.randint(-40, 41, (count, 3, size, size))
    return torch.from_numpy((coarse + fine).clip(0, 255)).float() / 255


def _drawn(name: str, shape: Sequence[int]) -> Tensor:
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        values = 1 + values / 4
    elif len(shape) == 1:
        values = values / 4
    elif name.startswith("quantize."):
        values = values * 0.6
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values).float()
