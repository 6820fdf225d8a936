"""The image contract: what a tokenizer takes and gives, and the check at its border."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from imagetok.config import Section
from imagetok.errors import InputError


class ImageContract(Section):
    """What images a tokenizer was made for, and how any picture is brought to that form.

    A picture is centre-cropped to `centre_crop` pixels if given (CelebA's 140), then resized:
    `cover` scales the shorter side and centre-crops the rest, `stretch` ignores the aspect ratio.
    """

    mode: Literal["rgb", "grey"] = "rgb"
    height: PositiveInt
    width: PositiveInt
    centre_crop: PositiveInt | None = None
    resize: Literal["cover", "stretch"] = "cover"
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    @property
    def channels(self) -> int:
        """3 for `rgb`, 1 for `grey`."""
        return 3 if self.mode == "rgb" else 1


def check_images(images: Tensor, contract: ImageContract) -> None:
    """Refuse what is not a batch of images of this contract.

    images: must be (B, C, H, W) floating point in [0, 1] with the contract's C, H and W.
    Raises InputError that says what was expected and what was found.
    """
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


def to_unit_range(images: Tensor) -> Float[Tensor, "B C H W"]:
    """uint8 pixels 0..255 to float32 in [0, 1], the one public pixel range."""
    return images.to(torch.float32) / 255


def to_uint8(images: Float[Tensor, "*B C H W"]) -> Tensor:
    """Float pixels in [0, 1] to uint8, clamped, rounded to nearest."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
