"""The image contract: what a tokenizer takes and gives, and the check at its border."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import (
    Field,
    model_serializer,
    model_validator,
)
from torch import Tensor

from imagetok.config import Section
from imagetok.errors import InputError

Images = Float[Tensor, "B C H W"] | Int[Tensor, "B H W"]
"""Pixels in [0, 1], or label maps: the class of every pixel."""

Side = Annotated[int, Field(gt=0, le=2**16)]


class ImageContract(Section):
    """The images that a tokenizer is made for, and how any picture is brought to that form.

    A picture is centre-cropped to `centre_crop` pixels if given (CelebA's 140), then resized:
    `cover` scales the shorter side and centre-crops the rest, `stretch` ignores the aspect ratio.
    Mode `labels` is for label maps, of classes in [0, num_classes).
    """

    mode: Literal["rgb", "grey", "labels"] = "rgb"
    """Colour, one channel of grey, or label maps: the class of every pixel."""
    height: Side
    """Rows of pixels."""
    width: Side
    """Columns of pixels."""
    centre_crop: Side | None = None
    """Side of the square that is cut out of the middle first; null: none."""
    resize: Literal["cover", "stretch"] = "cover"
    """`cover` scales the shorter side and crops the rest; `stretch` ignores the aspect ratio."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How pixels are resampled; label maps need nearest."""
    num_classes: Annotated[int, Field(ge=2, le=256)] | None = None
    """Number of classes of label maps, each stored in a byte; null for pixels."""

    @model_validator(mode="after")
    def _check(self) -> "ImageContract":
        if (self.mode == "labels") != (self.num_classes is not None):
            found = "none" if self.num_classes is None else self.num_classes
            raise ValueError(f"num_classes: mode labels needs it, others have none (found {found})")
        if self.mode == "labels" and self.interpolation != "nearest":
            raise ValueError(
                "interpolation: classes cannot be averaged; mode labels needs nearest "
                f"(found {self.interpolation})"
            )
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Without `num_classes` where there are none, as before label maps: it is hashed."""
        tree = handler(self)
        return (
            tree
            if self.num_classes is not None
            else {k: tree[k] for k in tree if k != "num_classes"}
        )

    @property
    def channels(self) -> int:
        """Of stored pixels: 3 for `rgb`, 1 for `grey` and `labels`."""
        return 3 if self.mode == "rgb" else 1


def check_images(images: Tensor, contract: ImageContract) -> None:
    """Refuse what is not a batch of images of this contract.

    images: must be (B, C, H, W) floating point in [0, 1] with the contract's C, H and W, or for
    label maps (B, H, W) int64 in [0, num_classes).
    Raises InputError that says what was expected and what was found.
    """
    if contract.num_classes is not None:
        _check_labels(images, contract, contract.num_classes)
        return
    expected = (contract.channels, contract.height, contract.width)
    wanted = f"images of shape (B, {expected[0]}, {expected[1]}, {expected[2]})"
    if images.ndim != 4:
        raise InputError(f"expected {wanted}, found shape {tuple(images.shape)}")
    if images.shape[1] != contract.channels:
        raise InputError(
            f"expected {wanted}: this tokenizer takes {contract.mode} images of "
            f"{contract.channels} channels, found {images.shape[1]} channels on dim 1"
        )
    if tuple(images.shape[2:]) != expected[1:]:
        raise InputError(
            f"expected {wanted}, found {images.shape[2]} x {images.shape[3]} pixels; resize first "
            "(imagetok.data.prepare does what the tokenizer was trained with)"
        )
    if not images.dtype.is_floating_point:
        raise InputError(
            f"expected floating point pixels in [0, 1], found {images.dtype}; "
            "for 0..255 pass images.float() / 255"
        )
    if images.numel() == 0:
        return
    low, high = (float(v) for v in images.aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise InputError(
            f"expected pixels in [0, 1], found [{low:g}, {high:g}]; "
            "divide 0..255 by 255, and undo any other normalisation"
        )


def _check_labels(images: Tensor, contract: ImageContract, num_classes: int) -> None:
    wanted = f"label maps of shape (B, {contract.height}, {contract.width})"
    if images.ndim != 3:
        raise InputError(
            f"expected {wanted}, found shape {tuple(images.shape)}; "
            "this tokenizer takes the class of every pixel, without a channel axis"
        )
    if tuple(images.shape[1:]) != (contract.height, contract.width):
        raise InputError(
            f"expected {wanted}, found {images.shape[1]} x {images.shape[2]} pixels; resize to the "
            "nearest pixel first (imagetok.data.prepare does what the tokenizer was trained with)"
        )
    if images.dtype != torch.int64:
        raise InputError(f"expected int64 classes, found {images.dtype}; pass labels.long()")
    outside = (images < 0) | (images >= num_classes)
    if outside.any():
        image, row, column = (int(i) for i in outside.nonzero()[0])
        raise InputError(
            f"expected classes in [0, {num_classes}), found {int(images[image, row, column])} at "
            f"image {image}, row {row}, column {column}; give `void` pixels a class of their own"
        )


def from_stored(pixels: UInt8[Tensor, "B C H W"], contract: ImageContract) -> Images:
    """What a tokenizer takes, of the bytes that a source of images gives."""
    return pixels[:, 0].long() if contract.mode == "labels" else to_unit_range(pixels)


def to_stored(images: Images) -> UInt8[Tensor, "B C H W"]:
    """The bytes of images: pixels clamped and rounded, classes as they are."""
    return to_uint8(images) if images.is_floating_point() else images[:, None].to(torch.uint8)


def clamp_pixels(images: Images) -> Images:
    """Pixels clamped to [0, 1]; classes as they are."""
    return images.clamp(0, 1) if images.is_floating_point() else images


def to_unit_range(images: Tensor) -> Float[Tensor, "B C H W"]:
    """uint8 pixels 0..255 to float32 in [0, 1], the one public pixel range."""
    return images.to(torch.float32) / 255


def to_uint8(images: Float[Tensor, "*B C H W"]) -> Tensor:
    """Float pixels in [0, 1] to uint8, clamped, rounded to nearest."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
