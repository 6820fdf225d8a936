"""Open one image file safely: only known formats, only whole files, only of a sane size."""

import os
import stat
from pathlib import Path
from typing import IO, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from imagetok.data.transforms import to_array
from imagetok.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 64 * 1024 * 1024
MAX_SIDE = 1 << 16

Reason = Literal[
    "truncated", "not_image", "too_large", "unsupported_mode", "unknown_class", "unreadable"
]

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_BLACK_IS_ZERO = 1
_CHECKSUM_BYTES = 4


class ImageError(InputError):
    """One image file is refused.

    Everything but the message has a default, since torch's DataLoader rebuilds an exception of a
    worker process from its message alone.
    """

    def __init__(self, message: str, path: str = "", reason: Reason = "unreadable"):
        super().__init__(message)
        self.path = path
        self.reason = reason


def open_image(path: Path | str, as_labels: bool = False) -> UInt8[np.ndarray, "H W *C"]:
    """The pixels of an image file, upright and opaque: (H, W) if it is grey, else (H, W, 3).

    as_labels: a label map's classes instead, (H, W), from grey levels or places in a palette.
    The first frame of an animation; transparency laid over white; 16-bit grey scaled to 8 bits.
    Colour profiles are not applied. Raises ImageError that names the path and the reason.
    """
    name = str(path)
    try:
        # Non-blocking, so that a named pipe is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(f"{name}: cannot be opened: {error.strerror}", name) from None
    is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_regular:
        os.close(descriptor)
        raise ImageError(f"{name}: expected a regular file, found something else", name)
    with os.fdopen(descriptor, "rb") as file:
        return _decode(file, name, as_labels)


def _decode(file: IO[bytes], name: str, as_labels: bool) -> np.ndarray:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_header(image, name)
            is_png = image.format == "PNG"
            if is_png:  # checksums and an end: decoding alone looks at neither
                image.verify()
                if len(file.read(_CHECKSUM_BYTES)) < _CHECKSUM_BYTES:
                    raise EOFError("truncated PNG file")
        file.seek(0)
        with Image.open(file, formats=FORMATS) as image:
            image.load()
            picture = image.convert("I;16") if is_png and image.mode == "I" else image
            return to_array(_upright(picture), as_labels)
    except (ImageError, MemoryError):
        raise
    except InputError as error:
        raise ImageError(f"{name}: {error}", name, "unsupported_mode") from None
    except UnidentifiedImageError:
        found = "something else" if os.fstat(file.fileno()).st_size else "an empty file"
        raise ImageError(
            f"{name}: expected an image ({', '.join(FORMATS)}), found {found}", name, "not_image"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "more") from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = "truncated" if _is_cut_short(error, file) else "unreadable"
        raise ImageError(
            f"{name}: the image is damaged ({error}); replace or remove the file", name, reason
        ) from None


def _check_header(image: Image.Image, name: str) -> None:
    """Refuse by what the header says, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise _too_large(name, f"{width} x {height}")
    if isinstance(image, TiffImageFile) and image.mode.startswith("I;16"):
        # PIL would give 12-bit samples unscaled, so dark, and 16-bit white-is-zero ones inverted.
        tags = (image.tag_v2.get(tag) for tag in (_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC))
        if tuple(tags) != ((16,), _TIFF_BLACK_IS_ZERO):
            raise ImageError(
                f"{name}: expected a TIFF of 8 bits, or of 16 with black as zero, found another; "
                "convert it first",
                name,
                "unsupported_mode",
            )


def _too_large(name: str, found: str) -> ImageError:
    return ImageError(
        f"{name}: expected at most {MAX_PIXELS >> 20} Mpx and {MAX_SIDE} pixels a side, "
        f"found {found}; scale it down first",
        name,
        "too_large",
    )


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; as in any viewer, damaged EXIF data means none."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, EOFError, IndexError):
        return image


def _is_cut_short(error: Exception, file: IO[bytes]) -> bool:
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "chunk b''" in message:
        return True
    file.seek(0)
    header = file.read(12)
    if header[:4] == b"RIFF" and header[8:] == b"WEBP":  # WebP's decoder doesn't say why
        return int.from_bytes(header[4:8], "little") + 8 > os.fstat(file.fileno()).st_size
    return False
