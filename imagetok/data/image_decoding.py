"""Decoding one image file safely: only known formats, complete files and reasonable sizes."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imagetok.data.file_formats import HEAD_BYTES, RAW, READ, format_by_name, format_of
from imagetok.data.metadata import is_raw_photo, png_orientation, without_metadata
from imagetok.data.preprocessing import to_array
from imagetok.data.tiff_directory import exif_orientation
from imagetok.errors import ConfigError, InputError

MAX_PIXELS = 64 * 1024 * 1024
MAX_SIDE = 1 << 16
MAX_BYTES = 1 << 29  # MAX_PIXELS uncompressed pixels of 8 bytes each

EncodedFile = IO[bytes] | io.BytesIO
"""An open image file, on disk or in memory."""

Reason = Literal[
    "missing",
    "truncated",
    "not_image",
    "unsupported_format",
    "needs_imagetok[heic]",
    "unsupported_mode",
    "unknown_class",
    "too_large",
    "unreadable",
]

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO = 0, 1
_PIL_FORMATS = {"WebP": "WEBP", "JPEG 2000": "JPEG2000", "PNM": "PPM"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by its orientation."""
_FACTORS = {"L;2": 85, "L;4": 17}  # from 2 and 4 bits to 8


class ImageError(InputError):
    """An image that cannot be read; `path` and `reason` go into lists of skipped inputs.

    All arguments but the message have defaults, because torch's DataLoader rebuilds the exception
    of a worker process from its message alone.
    """

    def __init__(self, message: str, path: str = "", reason: Reason = "unreadable"):
        super().__init__(message)
        self.path = path
        self.reason: Reason = reason


def open_image(path: Path | str, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """Read the uint8 pixels of an image file: (H, W) if it is grey, else (H, W, 3).

    The image is rotated by its EXIF orientation, transparency is blended onto white, and 16 bits
    are scaled to 8. Of an animation the first frame is read. Colour profiles are not applied, as in
    torchvision, and no other metadata is looked at. HEIC needs `imagetok[heic]`. as_labels: return
    the classes of a label map, (H, W), from grey levels or palette indices. Raises ImageError with
    the path and the reason.
    """
    with open_encoded(path) as file:
        return decode_file(file, str(path), as_labels)


def open_encoded(path: Path | str) -> EncodedFile:
    """Open an image file for reading; ImageError if it is missing or no regular file."""
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
    return os.fdopen(descriptor, "rb")


def decode_image(data: bytes, name: str, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """Decode an image file in memory, as `open_image` does; `name` is used in messages."""
    return decode_file(io.BytesIO(data), name, as_labels)


def decode_file(
    file: EncodedFile, name: str, as_labels: bool = False
) -> UInt8[np.ndarray, "H W *C"]:
    """Decode an open image file, as `open_image` does; `name` is used in messages."""
    with image_errors(file, name):
        kind = _checked_format(file, name)
        return _pixels(file.read(), kind, name, as_labels)


@contextmanager
def image_errors(file: EncodedFile, name: str) -> Iterator[None]:
    """Raise ImageError, with the reason, for what decoders raise; refuse too large files first."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is True, so truncated files would be accepted; "
            "set it to False"
        )
    if file.seek(0, os.SEEK_END) > MAX_BYTES:
        raise _too_large(name, "a larger file")
    file.seek(0)
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except InputError as error:
        raise ImageError(f"{name}: {error}", name, "unsupported_mode") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: expected an image ({', '.join(READ)}), found a file of such a format that is "
            "damaged or that PIL does not support; replace or remove the file",
            name,
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "more") from None
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        reason = "truncated" if _is_cut_short(error, file) else "unreadable"
        raise ImageError(
            f"{name}: the image is damaged ({error}); replace or remove the file", name, reason
        ) from None


class OpenedImage(NamedTuple):
    """An image whose pixels are not decoded yet."""

    image: ImageFile.ImageFile
    orientation: int
    """How it is to be turned, 1 to 8; PIL turns some formats itself."""


def open_header(file: EncodedFile, name: str) -> OpenedImage:
    """Open an image without decoding its pixels, and check its size and type."""
    kind = _checked_format(file, name)
    orientation = png_orientation(file) if kind == "PNG" else 1
    try:
        file.seek(0)
        image = _opened(file, kind)
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception:  # its metadata may be the reason, so the whole file is read
        file.seek(0)
        bare = without_metadata(file.read(), kind)
        image, orientation = _opened(io.BytesIO(bare.data), kind), bare.orientation or 1
    _check_header(image, name)
    exif = image.info.get("exif")
    if kind != "PNG" and isinstance(exif, bytes):
        orientation = exif_orientation(exif)
    return OpenedImage(image, orientation)


def _checked_format(file: EncodedFile, name: str) -> str:
    """Return the format of an image file by its content; ImageError for one that is not read."""
    head = file.read(HEAD_BYTES)
    found, by_name = format_of(head), format_by_name(name)
    if found == "TIFF" and (by_name == RAW or is_raw_photo(file)):
        found = RAW  # what a reader of TIFF would find is its thumbnail
    if found == "HEIC" and _heif_opener() is None:
        raise ImageError(
            f"{name}: HEIC is read with pillow-heif, which is not installed; pip install "
            '"imagetok[heic]", or convert the file first',
            name,
            "needs_imagetok[heic]",
        )
    if found in READ:
        file.seek(0)
        return found
    expected = f"{name}: expected an image ({', '.join(READ)}), found"
    if found is None and head and by_name is not None and by_name not in READ:
        found = by_name
    if found is not None:
        raise ImageError(f"{expected} {found}; convert it first", name, "unsupported_format")
    what = "something else" if head else "an empty file"
    raise ImageError(f"{expected} {what}", name, "not_image")


def _pixels(data: bytes, kind: str, name: str, as_labels: bool) -> np.ndarray:
    bare = without_metadata(data, kind)
    with _opened(io.BytesIO(bare.data), kind) as image:
        _check_header(image, name)
        if as_labels:
            _check_label_scale(image, name)
        if bare.fault:
            raise ValueError(bare.fault)
        if isinstance(image, PngImageFile):
            _scale_transparent_value(image)
        factor = _factor(image)
        image.load()
        stated = bare.orientation or exif_orientation(image.info.get("exif") or b"")
        # PIL's PGM of more than 8 bits is scaled to 16 in a mode of 32.
        wide = isinstance(image, PpmImageFile) and image.mode == "I"
        pixels = to_array(_turned(image.convert("I;16") if wide else image, stated), as_labels)
        return pixels // np.uint8(factor) if as_labels else pixels  # undoes PIL's scaling


def _opened(file: EncodedFile, kind: str) -> ImageFile.ImageFile:
    if kind == "HEIC":
        return _heif_opener()(file)  # turns images upright itself
    return Image.open(file, formats=[_PIL_FORMATS.get(kind, kind)])


def _heif_opener() -> Any:
    """Return pillow-heif's class of image files; None if it is not installed."""
    try:
        return import_module("pillow_heif").HeifImageFile
    except ImportError:
        return None


def _factor(image: ImageFile.ImageFile) -> int:
    """Return the factor by which PIL will scale grey levels of 2 and 4 bits when it loads them."""
    if not isinstance(image, PngImageFile | TiffImageFile):
        return 1
    arguments: Any = image.tile[0][3]
    return _FACTORS.get(arguments if isinstance(arguments, str) else arguments[0], 1)


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


def _check_label_scale(image: Image.Image, name: str) -> None:
    """Raise ImageError for a label map whose classes PIL would invert or scale."""
    found = ""
    if isinstance(image, TiffImageFile):
        is_inverted = image.tag_v2.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
        found = "white as zero" if is_inverted else ""
    elif isinstance(image, PpmImageFile):
        arguments: Any = image.tile[0][3]
        largest = 255 if isinstance(arguments, str) else arguments[-1]
        is_inverted = image.mode == "1"
        found = "white as zero" if is_inverted else f"grey levels up to {largest}"
        found = found if is_inverted or largest != 255 else ""
    if found:
        raise ImageError(
            f"{name}: expected a label map with black as zero and grey levels up to 255, found "
            f"{found}; convert it first",
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


def _too_large(name: str, found: str) -> ImageError:
    return ImageError(
        f"{name}: expected at most {MAX_PIXELS >> 20} Mpx, {MAX_SIDE} pixels per side and "
        f"{MAX_BYTES >> 20} MiB, found {found}; scale it down first",
        name,
        "too_large",
    )


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Rotate or mirror a PIL image by tag 274 of its EXIF data; damaged EXIF data is ignored.

    PIL turns TIFF images itself.
    """
    image.load()  # some formats keep EXIF data after the pixels
    exif = image.info.get("exif")
    return _turned(image, exif_orientation(exif)) if isinstance(exif, bytes) else image


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _is_cut_short(error: Exception, file: EncodedFile) -> bool:
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "end of file" in message:
        return True
    file.seek(0)
    head = file.read(HEAD_BYTES)
    kind, size = format_of(head), file.seek(0, os.SEEK_END)
    if kind == "WebP":  # its decoder gives no reason
        return int.from_bytes(head[4:8], "little") + 8 > size
    if kind == "JPEG 2000":
        file.seek(max(size - 2, 0))
        return file.read() != b"\xff\xd9"  # its end mark
    return False
