"""Image patches around the positions where a code occurs."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from imagetok.data import ImageDataset
from imagetok.evaluation.batches import batches
from imagetok.images import from_stored
from imagetok.indices import spread
from imagetok.precision import full_float32
from imagetok.quantizers import Codes, code_counts
from imagetok.tokenizers import Tokenizer


class EncodedImageCodes(NamedTuple):
    """The codes of some images of a dataset."""

    indices: list[int]
    """Indices of the images in the dataset."""
    codes: Codes
    """Codes of these images in order, one tensor (N, h, w) per level, on the CPU."""


@full_float32()
def encode_spread(tokenizer: Tokenizer, dataset: ImageDataset, most: int) -> EncodedImageCodes:
    """Encode at most `most` images, evenly spread over a dataset."""
    indices = list(spread(len(dataset), most))
    parts = []
    for batch in batches(tokenizer, dataset, indices):
        codes = tokenizer.encode(batch.images, generator=batch.draw())
        parts.append(tuple(level.cpu() for level in codes))
    return EncodedImageCodes(
        indices, tuple(torch.cat(levels) for levels in zip(*parts, strict=True))
    )


def codes_to_show(
    codes: Int[Tensor, "N h w"], num_codes: int, most: int, rare: int
) -> tuple[list[int], Int[Tensor, " K"]]:
    """Return the `most` most used codes, then the `rare` least used of the rest, and all counts."""
    counts = code_counts(codes, num_codes)
    order = counts.argsort(descending=True, stable=True).tolist()
    used = [code for code in order if counts[code] > 0]
    return used[:most] + used[most:][-rare:], counts


def code_patches(
    dataset: ImageDataset, encoded: EncodedImageCodes, level: int, code: int, count: int
) -> list[Tensor]:
    """Cut patches around `count` positions where a code occurs, evenly spread over all of them.

    Each is an image (1, C, h, w), or (1, h, w) of classes, twice as large as the area of a code,
    which is in its middle. Beyond the border of the image, its edge pixels are repeated.
    """
    indices = encoded.codes[level]
    places = (indices == code).nonzero()
    chosen = places[spread(len(places), count)].tolist()
    return [
        cut_patch(
            from_stored(dataset.read([encoded.indices[n]]).images, dataset.contract),
            (row, column),
            (indices.shape[1], indices.shape[2]),
        )
        for n, row, column in chosen
    ]


def cut_patch(images: Tensor, place: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Cut the area of one grid position and as much again around it out of images.

    images: (..., H, W). place: (row, column) in a grid of the given size. Returns (..., 2 H / rows,
    2 W / columns); beyond the border, edge pixels are repeated.
    """
    cut = images
    for axis, (position, cells) in enumerate(zip(place, grid, strict=True), start=-2):
        size = images.shape[axis]
        cell = max(1, size // cells)
        centre = (2 * position + 1) * size // (2 * cells)
        rows = np.arange(centre - cell, centre + cell)
        cut = cut.index_select(images.ndim + axis, torch.from_numpy(rows.clip(0, size - 1)))
    return cut
