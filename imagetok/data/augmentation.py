"""Augmentation of training images: its config, and its counted random parameters."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pydantic import Field, PositiveFloat, model_validator

from imagetok import seeding
from imagetok.config import Section
from imagetok.images import ImageContract, Side

_Share = Annotated[float, Field(gt=0, le=1)]
_Strength = Annotated[float, Field(ge=0, le=16)]
_TRIES = 10
# Columns of the numbers of an image. Their places are fixed, so that the crop of an image does not
# depend on whether it is flipped or its colours change: a label map gets the crop of its image.
_FLIP, _TOP, _LEFT = 0, 1, 2
_FACTORS, _ORDER = slice(3, 7), slice(7, 11)
_AREA, _RATIO = slice(11, 11 + _TRIES), slice(11 + _TRIES, 11 + 2 * _TRIES)
NUM_DRAWS = 11 + 2 * _TRIES
"""How many numbers are drawn for each image and epoch."""


class RandomCropConfig(Section):
    """A crop of the tokenizer's size at a random place of a larger picture."""

    side: Side
    """Pixels of the shorter side that a picture is resized to first, at least the tokenizer's."""


class RandomResizedCropConfig(Section):
    """A box of random size and shape at a random place, resized to the tokenizer's size.

    As in torchvision's RandomResizedCrop (Szegedy et al. 2015).
    """

    scale: tuple[_Share, _Share] = (0.08, 1.0)
    """Least and largest area of the box, as a share of the picture."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Least and largest width of the box, divided by its height."""
    side: Side | None = None
    """Pixels of the shorter side that a picture is resized to first; null: image files are cut at
    their own size, images of other sources at the tokenizer's."""

    @model_validator(mode="after")
    def _check(self) -> "RandomResizedCropConfig":
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name}: expected the least value first, found [{low}, {high}]")
        return self


class ColourJitterConfig(Section):
    """Random changes of colour in a random order, as in torchvision's ColorJitter."""

    brightness: _Strength = 0.0
    """Pixels are multiplied by a factor from 1 - brightness (at least 0) to 1 + brightness."""
    contrast: _Strength = 0.0
    """The same for the distance of pixels from the mean grey."""
    saturation: _Strength = 0.0
    """The same for the distance of colours from grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Hues are turned by up to this share of the colour circle."""

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Strength of each change, in the order of the columns of `Parameters.factors`."""
        return (self.brightness, self.contrast, self.saturation, self.hue)


class AugmentConfig(Section):
    """Random changes of training images; held-out images and images to encode are never changed.

    The changes of an image depend only on the run's seed, the epoch and the image's index.
    """

    horizontal_flip: bool = False
    """Mirror every second image, at random."""
    random_crop: RandomCropConfig | None = None
    """Crops at random places of a picture that is larger than the tokenizer's images."""
    random_resized_crop: RandomResizedCropConfig | None = None
    """Crops of random size and shape."""
    colour_jitter: ColourJitterConfig | None = None
    """Changes of brightness, contrast, saturation and hue."""

    @model_validator(mode="after")
    def _check(self) -> "AugmentConfig":
        jitter = self.colour_jitter
        if self.random_crop is not None and self.random_resized_crop is not None:
            raise ValueError(
                "expected random_crop or random_resized_crop, found both; leave one out"
            )
        if jitter is not None and not any(jitter.strengths):
            raise ValueError(
                "colour_jitter: expected brightness, contrast, saturation or hue above 0, found "
                "none; leave colour_jitter out"
            )
        if not (self.horizontal_flip or self.is_cropped or jitter):
            raise ValueError(
                "expected horizontal_flip, random_crop, random_resized_crop or colour_jitter, "
                "found none of them; leave augment out"
            )
        return self

    @property
    def is_cropped(self) -> bool:
        """Whether pictures are cropped at random."""
        return self.random_crop is not None or self.random_resized_crop is not None

    @property
    def side(self) -> int | None:
        """Shorter side that pictures are resized to before the crop; None: they are not."""
        crop = self.random_crop or self.random_resized_crop
        return None if crop is None else crop.side

    def check_images(self, image: ImageContract) -> None:
        """Raise ValueError if images of this contract cannot be augmented so."""
        jitter, shorter = self.colour_jitter, min(image.height, image.width)
        if self.random_crop is not None and self.random_crop.side < shorter:
            raise ValueError(
                f"augment.random_crop.side: expected at least {shorter}, the shorter side of the "
                f"tokenizer's images, found {self.random_crop.side}"
            )
        if jitter is not None and image.mode == "labels":
            raise ValueError(
                "augment.colour_jitter: expected none for label maps, whose classes are no "
                "colours; leave it out, flips and crops may stay"
            )
        if jitter is not None and image.mode == "grey" and (jitter.saturation or jitter.hue):
            raise ValueError(
                "augment.colour_jitter: expected saturation and hue 0 for grey images, which have "
                f"none, found {jitter.saturation:g} and {jitter.hue:g}; leave them out"
            )


class Parameters(NamedTuple):
    """Random parameters of a batch, one row an image."""

    boxes: Int64[np.ndarray, "B 4"]
    """Top, left, height and width of the crop, in pixels of the picture."""
    flips: Bool[np.ndarray, " B"]
    """Which crops are mirrored."""
    factors: Float64[np.ndarray, "B 4"]
    """Factors of brightness, contrast and saturation, and the turn of the hue."""
    orders: Int64[np.ndarray, "B 4"]
    """Order in which the four changes of colour are made."""


def draw_parameters(
    config: AugmentConfig,
    image: ImageContract,
    sizes: Sequence[tuple[int, int]],
    seed: int,
    indices: Sequence[int],
    epochs: Sequence[int],
) -> Parameters:
    """Draw the parameters of a batch; each row depends only on its seed, index, epoch and size.

    image: the contract of the augmented images. sizes: (height, width) of each picture. seed: the
    run's seed.
    """
    counters = zip(indices, epochs, strict=True)
    draws = seeding.uniforms(seed, "augmentation", counters, NUM_DRAWS)
    return Parameters(
        _boxes(config, image, sizes, draws),
        (draws[:, _FLIP] < 0.5) & config.horizontal_flip,
        _factors(config.colour_jitter or ColourJitterConfig(), draws[:, _FACTORS]),
        draws[:, _ORDER].argsort(axis=1, kind="stable"),
    )


def _boxes(
    config: AugmentConfig,
    image: ImageContract,
    sizes: Sequence[tuple[int, int]],
    draws: Float64[np.ndarray, "B n"],
) -> Int64[np.ndarray, "B 4"]:
    whole = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    if config.random_resized_crop is not None:
        crop = config.random_resized_crop
        found = [_random_box(crop, *each) for each in zip(sizes, draws, strict=True)]
        return np.array(found, dtype=np.int64).reshape(-1, 4)
    parts = np.full_like(whole, (image.height, image.width)) if config.is_cropped else whole
    corners = (draws[:, [_TOP, _LEFT]] * (whole - parts + 1)).astype(np.int64)
    return np.concatenate([corners, parts], axis=1)


def _random_box(
    crop: RandomResizedCropConfig, size: tuple[int, int], draws: Float64[np.ndarray, " n"]
) -> tuple[int, int, int, int]:
    part = _random_size(crop, size, draws)
    if part is None:
        return _central_box(crop, size)
    top = int(draws[_TOP] * (size[0] - part[0] + 1))
    left = int(draws[_LEFT] * (size[1] - part[1] + 1))
    return (top, left, *part)


def _random_size(
    crop: RandomResizedCropConfig, size: tuple[int, int], draws: Float64[np.ndarray, " n"]
) -> tuple[int, int] | None:
    """Return height and width of the first of some random boxes that fits; None if none does."""
    height, width = size
    low, high = crop.scale
    areas = height * width * (low + (high - low) * draws[_AREA])
    first, last = (math.log(value) for value in crop.ratio)
    ratios = np.exp(first + (last - first) * draws[_RATIO])
    for area, ratio in zip(areas.tolist(), ratios.tolist(), strict=True):
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return h, w
    return None


def _central_box(crop: RandomResizedCropConfig, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest box in the middle with an allowed ratio of width to height."""
    height, width = size
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    w = min(width, max(1, round(height * ratio)))
    h = min(height, max(1, round(width / ratio)))
    return (height - h) // 2, (width - w) // 2, h, w


def _factors(
    jitter: ColourJitterConfig, draws: Float64[np.ndarray, "B 4"]
) -> Float64[np.ndarray, "B 4"]:
    strengths = np.array(jitter.strengths)
    low = np.append(np.maximum(0, 1 - strengths[:3]), -strengths[3])
    high = np.append(1 + strengths[:3], strengths[3])
    return low + (high - low) * draws
