"""Decoding one image file safely: only known formats, complete files and reasonable sizes."""

import io
import os
import stat
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imagetok.data.preprocessing import to_array
from imagetok.errors import ConfigError, InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64 * 1024 * 1024
MAX_SIDE = 1 << 16
MAX_BYTES = 1 << 29  # MAX_PIXELS uncompressed pixels of 8 bytes each

Reason = Literal[
    "missing",
    "truncated",
    "not_image",
    "unsupported_format",
    "unsupported_mode",
    "unknown_class",
    "too_large",
    "unreadable",
]

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO = 0, 1
_CHECKSUM_BYTES = 4
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"%!PS", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"v/1\1", "OpenEXR"),
    (b"DDS ", "DDS"),
    (b"SIMPLE  =", "FITS"),
    (b"<svg", "SVG"),
    *((b"P%d" % i, "PNM") for i in range(1, 8)),
)
_FACTORS = {"L;2": 85, "L;4": 17}  # from 2 and 4 bits to 8


class ImageError(InputError):
    """An image that cannot be read; `path` and `reason` go into lists of skipped inputs.

    All arguments but the message have defaults, because torch's DataLoader rebuilds the exception
    of a worker process from its message alone.
    """

    def __init__(self, message: str, path: str = "", reason: Reason = "unreadable"):
        super().__init__(message)
        self.path = path
        self.reason = reason


def open_image(path: Path | str, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """Read the uint8 pixels of an image file: (H, W) if it is grey, else (H, W, 3).

    The image is rotated by its EXIF orientation, transparency is blended onto white, and 16 bits
    are scaled to 8. Of an animation the first frame is read. Colour profiles are not applied, as in
    torchvision. as_labels: return the classes of a label map, (H, W), from grey levels or palette
    indices. Raises ImageError with the path and the reason.
    """
    name = str(path)
    try:
        # Non-blocking, so that opening a named pipe does not wait; it is refused below.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        message = f"{name}: cannot be opened: {error.strerror}"
        raise ImageError(message, name, reason) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ImageError(f"{name}: expected an image file, found {found}", name)
    with os.fdopen(descriptor, "rb") as file:
        return _decode(file, name, as_labels)


def decode_image(data: bytes, name: str, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """Decode an image file in memory, as `open_image` does; `name` is used in messages."""
    return _decode(io.BytesIO(data), name, as_labels)


def _decode(file: IO[bytes] | io.BytesIO, name: str, as_labels: bool) -> np.ndarray:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, so truncated files would be accepted; "
            "set it to False"
        )
    if file.seek(0, os.SEEK_END) > MAX_BYTES:
        raise _too_large(name, "a larger file")
    file.seek(0)
    try:
        return _pixels(file, name, as_labels)
    except (ImageError, MemoryError):
        raise
    except InputError as error:
        raise ImageError(f"{name}: {error}", name, "unsupported_mode") from None
    except UnidentifiedImageError:
        raise _unidentified(file, name) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "more") from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        reason = "truncated" if _is_cut_short(error, file) else "unreadable"
        raise ImageError(
            f"{name}: the image is damaged ({error}); replace or remove the file", name, reason
        ) from None


def _pixels(file: IO[bytes] | io.BytesIO, name: str, as_labels: bool) -> np.ndarray:
    with Image.open(file, formats=FORMATS) as image:
        _check_header(image, name)
        if as_labels and isinstance(image, TiffImageFile):
            _check_black_is_zero(image, name)
        if not isinstance(image, PngImageFile):
            factor = _factor(image)
            image.load()
            return _oriented_pixels(image, as_labels, factor)
        image.verify()  # checks checksums and the end of the file, which decoding alone does not
        if len(file.read(_CHECKSUM_BYTES)) < _CHECKSUM_BYTES:
            raise EOFError("truncated PNG file")
    file.seek(0)
    image = PngImageFile(file)
    with image:
        _scale_transparent_value(image)
        factor = _factor(image)
        image.load()
        picture = image.convert("I;16") if image.mode == "I" else image
        return _oriented_pixels(picture, as_labels, factor)


def _factor(image: ImageFile.ImageFile) -> int:
    """Return the factor by which PIL will scale grey levels of 2 and 4 bits when it loads them."""
    if not isinstance(image, PngImageFile | TiffImageFile):
        return 1
    arguments: Any = image.tile[0][3]
    return _FACTORS.get(arguments if isinstance(arguments, str) else arguments[0], 1)


def _oriented_pixels(image: Image.Image, as_labels: bool, factor: int) -> np.ndarray:
    pixels = to_array(apply_exif_orientation(image), as_labels)
    return pixels // np.uint8(factor) if as_labels else pixels  # undoes PIL's scaling of classes


def _check_header(image: Image.Image, name: str) -> None:
    """Raise ImageError for an unacceptable size or type, before any pixel is decoded."""
    width, height = image.size
    if width * height == 0:
        raise ImageError(f"{name}: expected an image with pixels, found {width} x {height}", name)
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _too_large(name, f"{width} x {height}")
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        # PIL reads 12-bit samples without scaling, so too dark, and inverts 16-bit white-is-zero.
        tags = (image.tag_v2.get(tag) for tag in (_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC))
        if tuple(tags) != ((16,), _TIFF_BLACK_IS_ZERO):
            raise ImageError(
                f"{name}: expected a TIFF of 8 bits, or of 16 bits with black as zero, found "
                "another kind; convert it first",
                name,
                "unsupported_mode",
            )


def _check_black_is_zero(image: TiffImageFile, name: str) -> None:
    """Raise ImageError for a label map whose classes PIL would invert."""
    if image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:
        raise ImageError(
            f"{name}: expected a label map with black as zero, found white as zero; convert it "
            "first",
            name,
            "unsupported_mode",
        )


def _scale_transparent_value(image: PngImageFile) -> None:
    """Scale a PNG's transparent grey value like its pixels; PIL scales only the pixels."""
    value, raw_mode = image.info.get("transparency"), image.tile[0][3]
    if value is None:
        return
    if raw_mode == "RGB;16B":
        raise InputError(
            "expected 8 bits for a PNG with a transparent colour, found 16 bits; convert it first"
        )
    factor = _FACTORS.get(str(raw_mode), 1)
    if factor > 1 and value * factor <= 255:  # otherwise a newer PIL has scaled it already
        image.info["transparency"] = value * factor


def _unidentified(file: IO[bytes] | io.BytesIO, name: str) -> ImageError:
    """Return the error for a file in which PIL recognises no image of the allowed formats."""
    file.seek(0)
    head = file.read(16)
    found = next((known for magic, known in _MAGIC if head.startswith(magic)), None)
    found = "AVIF or HEIC" if head[4:8] == b"ftyp" else found
    expected = f"{name}: expected an image ({', '.join(FORMATS)}), found"
    if found in FORMATS:
        message = f"{expected} a {found} file that is damaged or that PIL does not support"
        return ImageError(message, name, "unreadable")
    if found is not None:
        message = f"{expected} {found}; convert it first"
        return ImageError(message, name, "unsupported_format")
    what = "something else" if head else "an empty file"
    return ImageError(f"{expected} {what}", name, "not_image")


def _too_large(name: str, found: str) -> ImageError:
    return ImageError(
        f"{name}: expected at most {MAX_PIXELS >> 20} Mpx, {MAX_SIDE} pixels per side and "
        f"{MAX_BYTES >> 20} MiB, found {found}; scale it down first",
        name,
        "too_large",
    )


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image by its EXIF orientation; damaged EXIF data is ignored."""
    try:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, EOFError, IndexError):
        return image


def _is_cut_short(error: Exception, file: IO[bytes] | io.BytesIO) -> bool:
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "chunk b''" in message:
        return True
    file.seek(0)
    header = file.read(12)
    if header[:4] == b"RIFF" and header[8:] == b"WEBP":  # WebP's decoder gives no reason
        return int.from_bytes(header[4:8], "little") + 8 > file.seek(0, os.SEEK_END)
    return False
