"""The image contract: form and preprocessing of a tokenizer's images, checks and conversions."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from imagetok.arguments import checked_count
from imagetok.config import Section
from imagetok.errors import ConfigError, InputError
from imagetok.suggestions import counted, shown

Images = Float[Tensor, "B C H W"] | Int[Tensor, "B H W"]
"""Pixels (B, C, H, W) in [0, 1], or label maps (B, H, W) with the class of every pixel."""

ImageSize = tuple[int, int]
"""Size of images in pixels, as (height, width)."""
Side = Annotated[int, Field(gt=0, le=2**16)]


class ImageContract(Section):
    """The images that a tokenizer is made for, and how any picture is brought to that form.

    A picture is centre-cropped to `centre_crop` pixels if given (CelebA's 140), then resized:
    `cover` scales the shorter side and centre-crops the rest, `stretch` ignores the aspect ratio.
    `adm` is ADM's crop to a square (Dhariwal and Nichol 2021): sides are halved by averages of
    2 x 2 pixels while the shorter one has at least twice the pixels, then as `cover`.
    Mode `labels` is for label maps, of classes in [0, num_classes), or `ignore`.
    """

    mode: Literal["rgb", "grey", "labels"] = "rgb"
    """Colour, one channel of grey, or label maps: the class of every pixel."""
    height: Side
    """Rows of pixels."""
    width: Side
    """Columns of pixels."""
    centre_crop: Side | None = None
    """Side of the square that is cut out of the middle first; null: none."""
    resize: Literal["cover", "stretch", "adm", "crop"] = "cover"
    """`cover` scales the shorter side and crops the rest; `stretch` ignores the aspect ratio; `adm`
    crops as ADM does for ImageNet, bicubic and square; `crop` cuts the middle out of a larger image
    without scaling."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How pixels are resampled; label maps need nearest."""
    num_classes: Annotated[int, Field(ge=2, le=256)] | None = None
    """Number of classes of label maps, each stored in a byte; null for pixels."""
    ignore: Annotated[int, Field(ge=2, le=255)] | None = None
    """Value of label maps for pixels without a class, often 255: left out of the loss and of all
    measures; null: every pixel has a class."""
    added: ClassVar[tuple[str, ...]] = ("num_classes", "ignore")

    @model_validator(mode="after")
    def _check(self) -> "ImageContract":
        if (self.mode == "labels") != (self.num_classes is not None):
            found = "none" if self.num_classes is None else self.num_classes
            expected = "a number for mode labels" if self.mode == "labels" else "none"
            raise ValueError(
                f"num_classes: expected {expected}, found {found} with mode {self.mode}"
            )
        if self.mode == "labels" and self.interpolation != "nearest":
            raise ValueError(
                "interpolation: expected nearest for mode labels, because classes cannot be "
                f"averaged, found {self.interpolation}"
            )
        if self.ignore is not None and self.ignore < (self.num_classes or 256):
            raise ValueError(
                "ignore: expected a value of label maps that is no class, from "
                f"{self.num_classes or 'num_classes of mode labels'} to 255, found {self.ignore}"
            )
        if self.resize == "adm" and (self.interpolation, self.width) != ("bicubic", self.height):
            raise ValueError(
                "resize: adm needs interpolation bicubic and height = width, found "
                f"{self.interpolation} and {self.height} x {self.width}"
            )
        return self

    def of_size(self, height: int, width: int) -> "ImageContract":
        """Return the contract for images of another size that are prepared in the same way."""
        return self.model_copy(update={"height": height, "width": width})

    def with_shorter_side(self, side: int) -> "ImageContract":
        """Return the contract for images whose shorter side has `side` pixels."""
        scale = side / min(self.height, self.width)
        return self.of_size(round(self.height * scale), round(self.width * scale))

    @property
    def channels(self) -> int:
        """Number of channels of stored pixels: 3 for `rgb`, 1 for `grey` and `labels`."""
        return 3 if self.mode == "rgb" else 1


def pixels_text(image: ImageContract) -> str:
    """Return the size and mode of a contract's images: `96 x 64 rgb` (width x height)."""
    return f"{image.width} x {image.height} {image.mode}"


def checked_size(size: object) -> ImageSize:
    """Return (height, width) of a pair, or of a text such as `96x64`; ConfigError for others."""
    parts = size.split("x") if isinstance(size, str) else size
    if isinstance(parts, list | tuple) and len(parts) == 2:
        if all(isinstance(part, str) and part.isdecimal() for part in parts):
            parts = [int(part) for part in parts]
        if all(not isinstance(part, str) for part in parts):
            height, width = (checked_count("size", part) for part in parts)
            return height, width
    raise ConfigError(f"size: expected HEIGHTxWIDTH in pixels, as in 96x64, found {shown(size)}")


def check_tensor(images: object) -> None:
    """Raise InputError for images that are no tensor, with the conversion that makes them one."""
    if isinstance(images, Tensor):
        return
    if isinstance(images, np.ndarray):
        raise InputError(
            "expected images as a torch tensor, found a numpy array; pass torch.from_numpy(images) "
            "with pixels in [0, 1], shape (B, C, H, W)"
        )
    raise InputError(
        f"expected images as a torch tensor, found {type(images).__name__}; for files and PIL "
        "images use imagetok.data.open_image and imagetok.data.preprocess, or the functions "
        "imagetok.encode and imagetok.reconstruct, which take them as they are"
    )


def check_images(images: Tensor, contract: ImageContract, *, values: bool = True) -> None:
    """Raise InputError for anything but a batch of images of this contract.

    images: floating point (B, C, H, W) in [0, 1] with the contract's C, H and W, or label maps as
    int64 (B, H, W) in [0, num_classes). values: False checks shape and type alone, for images
    whose values were checked before; of a GPU's, each check of values waits for it.
    """
    check_tensor(images)
    if contract.num_classes is not None:
        _check_labels(images, contract, contract.num_classes, values)
        return
    expected = (contract.channels, contract.height, contract.width)
    wanted = f"images of shape (B, {expected[0]}, {expected[1]}, {expected[2]})"
    if images.ndim != 4:
        raise InputError(f"expected {wanted}, found shape {tuple(images.shape)}")
    if images.shape[1] != contract.channels:
        raise InputError(
            f"expected {wanted}, because this tokenizer is for {contract.mode} images of "
            f"{counted(contract.channels, 'channel')}, found {images.shape[1]} on dim 1"
        )
    if tuple(images.shape[2:]) != expected[1:]:
        raise InputError(
            f"expected {wanted}, found {images.shape[2]} x {images.shape[3]} pixels; resize them "
            "first (imagetok.data.preprocess does it as in training)"
        )
    if not images.dtype.is_floating_point:
        raise InputError(
            f"expected floating point pixels in [0, 1], found {images.dtype}; "
            "for pixels in 0..255 pass images.float() / 255"
        )
    if images.numel() == 0 or not values:
        return
    low, high = (float(v) for v in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise InputError(
            f"expected pixels in [0, 1], found [{low:g}, {high:g}]; "
            "divide pixels in 0..255 by 255, and undo any other normalisation"
        )


def _check_labels(images: Tensor, contract: ImageContract, num_classes: int, values: bool) -> None:
    wanted = f"label maps of shape (B, {contract.height}, {contract.width})"
    if images.ndim != 3:
        raise InputError(
            f"expected {wanted}, found shape {tuple(images.shape)}; "
            "this tokenizer needs the class of every pixel, without a channel axis"
        )
    if tuple(images.shape[1:]) != (contract.height, contract.width):
        raise InputError(
            f"expected {wanted}, found {images.shape[1]} x {images.shape[2]} pixels; resize them "
            "by nearest pixels first (imagetok.data.preprocess does it as in training)"
        )
    if images.dtype != torch.int64:
        raise InputError(f"expected int64 classes, found {images.dtype}; pass labels.long()")
    if not values:
        return
    outside = (images < 0) | (images >= num_classes)
    if contract.ignore is not None:
        outside &= images != contract.ignore
    if outside.any():
        image, row, column = (int(i) for i in outside.nonzero()[0])
        raise InputError(
            f"expected classes in [0, {num_classes}), found {int(images[image, row, column])} at "
            f"image {image}, row {row}, column {column}; map `void` pixels to a class of their "
            "own, or train a tokenizer with image.ignore set to their value"
        )


def with_class(images: Images, contract: ImageContract) -> Bool[Tensor, "B H W"] | None:
    """Return which pixels of label maps have a class; None if all have one, as pixels do."""
    return None if contract.ignore is None else images != contract.ignore


def from_stored(pixels: UInt8[Tensor, "B C H W"], contract: ImageContract) -> Images:
    """Convert stored uint8 pixels to a tokenizer's input: floats in [0, 1], or int64 classes."""
    return pixels[:, 0].long() if contract.mode == "labels" else to_unit_range(pixels)


def to_stored(images: Images) -> UInt8[Tensor, "B C H W"]:
    """Convert images to stored uint8 pixels: pixels clamped and rounded, classes unchanged."""
    return to_uint8(images) if images.is_floating_point() else images[:, None].to(torch.uint8)


def clamp_pixels(images: Images) -> Images:
    """Clamp pixels to [0, 1]; classes of label maps are returned unchanged."""
    return images.clamp(0, 1) if images.is_floating_point() else images


def to_unit_range(images: Tensor) -> Float[Tensor, "B C H W"]:
    """Convert uint8 pixels in 0..255 to float32 in [0, 1], the same on any device."""
    # By a tensor: a GPU would multiply by the reciprocal of a number, which rounds differently.
    return images.to(torch.float32) / torch.full((), 255.0, device=images.device)


def to_uint8(images: Float[Tensor, "*B C H W"]) -> Tensor:
    """Convert float pixels to uint8: clamped to [0, 1], scaled to 0..255, rounded to nearest."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
