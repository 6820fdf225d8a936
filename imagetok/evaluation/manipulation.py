"""Decoding changed codes: neighbours in the codebook, and interpolations of two images."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from imagetok import seeding
from imagetok.data import ArrayImages, ImageDataset
from imagetok.errors import ConfigError
from imagetok.evaluation.batches import batches, evaluation_batch
from imagetok.evaluation.reconstruction_error import (
    decode_unclamped,
    num_sums,
    quality,
    quality_sums,
)
from imagetok.images import clamp_pixels, to_stored
from imagetok.precision import full_float32
from imagetok.quantizers import Codes
from imagetok.tokenizers import Tokenizer


class ChangedImages(NamedTuple):
    """Images decoded from changed codes."""

    images: ArrayImages
    """uint8 images, one per image of the dataset."""
    mse: float | None
    """Mean squared error from the dataset's images, in [0, 1] and unclamped, as in `evaluate`;
    None for interpolations, which have no single original."""


def codebook_neighbours(codebook: Float[Tensor, "K D"], n: int) -> Int64[Tensor, "K n"]:
    """Return for each code the n nearest other codes by Euclidean distance, nearest first.

    Raises ConfigError unless 1 <= n < K.
    """
    if not 1 <= n < len(codebook):
        raise ConfigError(f"neighbours: expected 1..{len(codebook) - 1} of K - 1, found {n}")
    distances = torch.cdist(codebook.double(), codebook.double())
    return distances.fill_diagonal_(torch.inf).topk(n, largest=False).indices


def neighbours(
    indices: Int[Tensor, "B H W"],
    nearest: Int64[Tensor, "K n"],
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B H W"]:
    """Replace every code by one of its n nearest codes, chosen uniformly at random."""
    choice = torch.randint(nearest.shape[1], indices.shape, generator=generator)
    return nearest[indices.long(), choice.to(indices.device)].to(indices.dtype)


@full_float32()
def decode_neighbours(tokenizer: Tokenizer, dataset: ImageDataset, n: int) -> ChangedImages:
    """Decode all images of `dataset` with every code replaced by one of its n nearest codes.

    n = 0 replaces nothing. Raises ConfigError for residual levels, whose codes have no vectors of
    their own, and for n >= K.
    """
    tables = (
        [_nearest(tokenizer, level, n) for level in range(len(tokenizer.num_codes))] if n else []
    )
    parts, sums = [], torch.zeros(num_sums(tokenizer.image), dtype=torch.float64)
    for batch in batches(tokenizer, dataset, work=f"decoding neighbour-{n}"):
        draw = seeding.generator(0, "neighbours", n, batch.number)
        codes = tokenizer.encode(batch.images, generator=batch.draw())
        if tables:
            pairs = zip(codes, tables, strict=True)
            codes = tuple(neighbours(level, table, draw) for level, table in pairs)
        decoded = decode_unclamped(tokenizer, codes)
        sums += quality_sums(decoded, batch.images, tokenizer.image).cpu()
        parts.append(to_stored(clamp_pixels(decoded)).cpu())
    images = _dataset(torch.cat(parts), tokenizer, dataset, f"neighbour-{n}")
    return ChangedImages(images, quality(sums, len(dataset), tokenizer.image).get("mse"))


@full_float32()
def decode_between(tokenizer: Tokenizer, dataset: ImageDataset) -> ChangedImages:
    """Decode interpolations of random pairs of images, as many as `dataset` has images.

    Every image is once the first and once the second of a pair; the interpolation weights are
    uniform on [0, 1].
    """
    draw = seeding.generator(0, "interpolation")
    partners = torch.randperm(len(dataset), generator=draw)
    shares = torch.rand(len(dataset), generator=draw)
    parts = []
    pairs = zip(
        batches(tokenizer, dataset, work="decoding interpolations"),
        batches(tokenizer, dataset, partners.tolist()),
        shares.split(evaluation_batch(tokenizer.image)),
        strict=True,
    )
    for first, second, share in pairs:
        of = share.to(first.images.device)
        codes = tokenizer.encode_between(first.images, second.images, of, generator=first.draw())
        parts.append(to_stored(tokenizer.decode(codes)).cpu())
    return ChangedImages(_dataset(torch.cat(parts), tokenizer, dataset, "interpolation"), None)


def code_vectors(tokenizer: Tokenizer, codes: Codes) -> Float[Tensor, "B F"] | None:
    """Concatenate the code vectors of each image, level by level; None for residual levels."""
    parts = []
    for level, indices in enumerate(codes):
        codebook = tokenizer.codebook(level)
        if codebook is None:
            return None
        parts.append(codebook[indices].flatten(1))
    return torch.cat(parts, dim=1)


def _nearest(tokenizer: Tokenizer, level: int, n: int) -> Tensor:
    codebook = tokenizer.codebook(level)
    if codebook is None:
        raise ConfigError(
            "neighbours: this tokenizer has residual levels, whose vectors are summed, so that a "
            "code has no neighbours of its own"
        )
    return codebook_neighbours(codebook, n)


def _dataset(pixels: Tensor, tokenizer: Tokenizer, dataset: ImageDataset, name: str) -> ArrayImages:
    return ArrayImages(pixels, name=name, split=dataset.split, contract=tokenizer.image)
