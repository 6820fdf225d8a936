"""Preprocessing: from an image of any size and mode to uint8 pixels in the form of a contract."""

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from imagetok.errors import InputError
from imagetok.images import ImageContract

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
MOST_ASPECT = 32
"""Longer images are not resized as a whole, because that needs too much memory."""
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")


def preprocess(
    image: Image.Image | UInt8[np.ndarray, "H W *C"], contract: ImageContract
) -> UInt8[Tensor, "C h w"]:
    """Bring one image to the contract: convert the mode, crop the centre, resize with antialiasing.

    image: a PIL image, or pixels in 0..255 of shape (H, W), (H, W, 1) or (H, W, 3). The pixels of
    label maps are classes: grey levels, or palette indices of a PIL image.
    The result equals that of torchvision's CenterCrop and Resize on PIL images to one grey level.
    Raises InputError for a mode whose pixel range is undefined, and for classes outside the
    contract's num_classes.
    """
    picture = _centre_cropped(_picture(image, contract), contract)
    return _tensor(_fit(picture, contract)).contiguous()


def whole_picture(
    image: Image.Image | UInt8[np.ndarray, "H W *C"], contract: ImageContract
) -> UInt8[Tensor, "C H W"]:
    """Bring one image to the contract's mode and centre crop, at its own size.

    Raises what `preprocess` raises.
    """
    return _tensor(_centre_cropped(_picture(image, contract), contract))


def resize_to_cover(
    picture: UInt8[Tensor, "C H W"], contract: ImageContract
) -> UInt8[Tensor, "C _h _w"]:
    """Resize a picture as `preprocess` does, but keep what it would crop afterwards.

    A picture more than `MOST_ASPECT` times as long as wide is cropped, because it would become
    huge.
    """
    height, width = picture.shape[1:]
    if (height, width) == (contract.height, contract.width):
        return picture
    scale = max(contract.height / height, contract.width / width)
    size = (max(contract.width, round(width * scale)), max(contract.height, round(height * scale)))
    image = _image(picture)
    if contract.resize == "stretch" or max(size) > MOST_ASPECT * min(size):
        return _tensor(_fit(image, contract))
    if contract.resize == "adm":
        return _tensor(_adm_resized(image, contract.width))
    return _tensor(image.resize(size, _RESAMPLING[contract.interpolation]))


def preprocess_batch(
    pixels: UInt8[np.ndarray, "B H W *C"], contract: ImageContract
) -> UInt8[Tensor, "B C h w"]:
    """Apply `preprocess` to images of one size, without a loop if they need no crop or resize.

    pixels: in 0..255, of shape (B, H, W), (B, H, W, 1) or (B, H, W, 3).
    """
    if contract.mode == "labels":
        _check_classes(pixels, 3, contract)
    height, width = pixels.shape[1:3]
    crop = contract.centre_crop or max(height, width)
    if (height, width) != (contract.height, contract.width) or crop < max(height, width):
        prepared = [preprocess(image, contract) for image in pixels]
        shape = (0, contract.channels, contract.height, contract.width)
        return torch.stack(prepared) if prepared else torch.empty(shape, dtype=torch.uint8)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] == 3 and contract.mode == "grey":
        pixels = _luminance(pixels)[..., None]
    images = torch.from_numpy(np.array(np.moveaxis(pixels, -1, 1), order="C"))  # (B, C, H, W)
    return images.expand(-1, contract.channels, -1, -1).contiguous()


def to_array(image: Image.Image, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """Return the 8-bit pixels of a PIL image: (H, W) if it is grey, else (H, W, 3).

    Transparency is blended onto white, 16 bits are scaled to 8, and CMYK is converted to RGB.
    as_labels: return grey levels or palette indices unchanged, as the classes of a label map.
    Raises InputError for modes of unknown range (32-bit integers, floats, LAB), and with as_labels
    for all modes but 1, L and P.
    """
    if as_labels:
        if image.mode not in ("1", "L", "P"):
            raise InputError(
                "expected a label map of mode L (grey levels are classes), 1 or P (palette), found "
                f"mode {image.mode}; convert colours to classes first"
            )
        return np.array(image, dtype=np.uint8)
    if image.mode.startswith("I;16"):
        return _scaled_from_16_bits(image)
    if image.mode not in _GREY_MODES + _COLOUR_MODES:
        known = ", ".join(_GREY_MODES + _COLOUR_MODES)
        raise InputError(
            f"expected an image of mode {known} or I;16, found mode {image.mode}; "
            "convert it to 8-bit RGB or grey first"
        )
    target = "L" if image.mode in _GREY_MODES else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert(target))


def _scaled_from_16_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.uint32)
    scaled = ((values + 128) // 257).astype(np.uint8)  # round(v * 255 / 65535)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # PNG tRNS: the grey value that is transparent
        scaled[values == transparent] = 255
    return scaled


def _check_classes(pixels: np.ndarray, num_axes: int, contract: ImageContract) -> None:
    """Raise InputError for anything but a label map of the contract's classes.

    num_axes: 2 for a single label map, 3 for a batch.
    """
    if pixels.ndim > num_axes and pixels.shape[-1] > 1:
        raise InputError(
            f"expected a label map, one class per pixel, found colours of shape {pixels.shape}"
        )
    assert contract.num_classes is not None
    is_outside = pixels >= contract.num_classes
    if contract.ignore is not None:
        is_outside &= pixels != contract.ignore
    outside = np.argwhere(is_outside)
    if len(outside):
        place = tuple(int(i) for i in outside[0])
        row, column = place[num_axes - 2 : num_axes]
        raise InputError(
            f"expected classes in [0, {contract.num_classes}), found {pixels[place]} at row {row}, "
            f"column {column}; raise tokenizer.image.num_classes, map these pixels to other "
            f"classes, or set tokenizer.image.ignore={pixels[place]} to leave them out"
        )


def _checked(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        return pixels[..., 0]
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] == 3):
        return pixels
    raise InputError(
        f"expected pixels of shape (H, W), (H, W, 1) or (H, W, 3), found {pixels.shape}; "
        "for a tensor (C, H, W) pass image.movedim(0, -1).numpy()"
    )


def _luminance(pixels: np.ndarray) -> np.ndarray:
    """Convert RGB to grey with PIL's fixed-point weights (ITU-R 601-2), bit for bit like PIL."""
    wide = pixels.astype(np.uint32)
    total = wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471
    return ((total + 0x8000) >> 16).astype(np.uint8)


def _picture(image: Image.Image | np.ndarray, contract: ImageContract) -> Image.Image:
    """Convert an image to the mode of a contract."""
    as_labels = contract.mode == "labels"
    pixels = to_array(image, as_labels) if isinstance(image, Image.Image) else _checked(image)
    if as_labels:
        _check_classes(pixels, 2, contract)
    return Image.fromarray(pixels).convert("RGB" if contract.mode == "rgb" else "L")


def _tensor(picture: Image.Image) -> UInt8[Tensor, "C H W"]:
    pixels = torch.from_numpy(np.array(picture))  # a copy, because torch needs writable memory
    return pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels[None]


def _image(pixels: UInt8[Tensor, "C H W"]) -> Image.Image:
    return Image.fromarray(pixels.movedim(0, -1).squeeze(-1).contiguous().numpy())


def _centre_cropped(picture: Image.Image, contract: ImageContract) -> Image.Image:
    if contract.centre_crop is None:
        return picture
    # A side smaller than the crop is kept whole.
    width, height = (min(contract.centre_crop, side) for side in picture.size)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def _fit(picture: Image.Image, contract: ImageContract) -> Image.Image:
    size = (contract.width, contract.height)
    if picture.size == size:
        return picture
    if contract.resize == "crop":
        return _middle(picture, size)
    if contract.resize == "adm" and max(picture.size) <= MOST_ASPECT * min(picture.size):
        return _adm_crop(picture, contract.width)
    box = (0, 0, *picture.size) if contract.resize == "stretch" else _cover(picture.size, size)
    return picture.resize(size, _RESAMPLING[contract.interpolation], box=box)


def _middle(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut out the middle; size: (width, height). InputError for a smaller picture."""
    left, top = ((have - want) // 2 for have, want in zip(picture.size, size, strict=True))
    if min(left, top) < 0:
        raise InputError(
            f"expected an image of {size[1]} x {size[0]} pixels or more, found "
            f"{picture.height} x {picture.width}; it is cropped and never enlarged"
        )
    return picture.crop((left, top, left + size[0], top + size[1]))


def _adm_crop(picture: Image.Image, side: int) -> Image.Image:
    whole = _adm_resized(picture, side)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    return whole.crop((left, top, left + side, top + side))


def _adm_resized(picture: Image.Image, side: int) -> Image.Image:
    """Halve sides while the shorter one has at least twice `side` pixels, then resize it to `side`.

    Dhariwal and Nichol 2021, openai/guided-diffusion: the whole image is resized before the crop,
    because a box to resize (see `_cover`) is rounded to float32.
    """
    while min(picture.size) >= 2 * side:
        halves = (picture.width // 2, picture.height // 2)
        picture = picture.resize(halves, Image.Resampling.BOX)
    scale = side / min(picture.size)
    return picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )


def _cover(source: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of `source` that fills `target` when resized.

    source, target: (width, height). Resizing this box equals resizing the whole image and cropping
    it afterwards, because PIL's resampling reads beyond the box; but a very long, thin image needs
    no huge intermediate image.
    """
    (width, height), (new_width, new_height) = source, target
    if new_width * height >= new_height * width:
        scaled = height * new_width // width
        top = round((scaled - new_height) / 2)
        bottom = min(float(height), (top + new_height) * height / scaled)
        return (0.0, top * height / scaled, float(width), bottom)
    left, top, right, bottom = _cover((height, width), (new_height, new_width))
    return (top, left, bottom, right)
