"""The header of an encoded image: size, mode and format, without decoding the pixels."""

import os
from typing import NamedTuple

from PIL import Image

from imagetok.data.image_decoding import EncodedFile, decode_file, image_errors, open_header

_END_OF_IMAGE = b"\xff\xd9"
_ENDS = {
    **dict.fromkeys(("JPEG", "MPO", "JPEG2000"), _END_OF_IMAGE),
    "PNG": b"IEND\xaeB`\x82",
    "GIF": b";",
}
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_TIFF_DATA = ((273, 279), (324, 325))
"""TIFF tags of offsets and sizes in bytes, of strips and of tiles."""


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    width: int
    """Width in pixels, after a rotation by the EXIF orientation."""
    height: int
    mode: str
    """PIL's mode, such as "RGB", "L", "P" or "CMYK"."""
    format: str
    """PIL's name of the file format, such as "JPEG"."""
    num_bytes: int
    """Size of the encoded image."""


def read_header(file: EncodedFile, name: str) -> ImageHeader:
    """Read the header of an open image file, and check that the file is not cut short.

    Pixels are decoded only if the file does not end as its format ends, because a whole image may
    be followed by other data. Raises ImageError for a damaged file; name: for its message.
    """
    with image_errors(file, name):
        image, orientation = open_header(file, name)
        num_bytes = file.seek(0, os.SEEK_END)
        width, height = image.size
        if orientation in _SIDEWAYS:
            width, height = height, width
        header = ImageHeader(width, height, image.mode, image.format or "", num_bytes)
        looks_whole = _looks_whole(image, file, num_bytes)
    if not looks_whole:
        decode_file(file, name)
    return header


def _looks_whole(image: Image.Image, file: EncodedFile, num_bytes: int) -> bool:
    """Return whether a file ends as expected; True for formats that do not show it."""
    kind = image.format or ""
    if end := _ENDS.get(kind):
        file.seek(-min(num_bytes, len(end)), os.SEEK_END)
        return file.read() == end
    if kind in ("TIFF", "BMP", "WEBP"):
        return _stated_size(image, file) <= num_bytes
    return True


def _stated_size(image: Image.Image, file: EncodedFile) -> int:
    """Return the smallest size of the file that its header is consistent with."""
    if image.format == "TIFF":
        tags = getattr(image, "tag_v2", {})
        ends = [
            offset + size
            for offsets, sizes in _TIFF_DATA
            for offset, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=False)
        ]
        return max(ends, default=0)
    file.seek(0)
    head = file.read(8)
    start, more = (4, 8) if image.format == "WEBP" else (2, 0)
    return int.from_bytes(head[start : start + 4], "little") + more
