"""Removing from an image file what its pixels do not need, before it is decoded.

Decoders refuse files for their metadata (a text of 2 MiB, a tag of the wrong type), so they are
not given any. Of the metadata only the orientation, tag 274 of EXIF, is read.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, NamedTuple

from imagetok.data.tiff_directory import exif_orientation, first_directory, orientation_of


class BareImage(NamedTuple):
    """An image file without its metadata."""

    data: bytes
    orientation: int | None
    """Orientation that the file states, 1 to 8; None if it is the decoder that reads it."""
    fault: str = ""
    """Damage that was found, in words; empty for none. The decoder may find more."""


def without_metadata(data: bytes, kind: str | None) -> BareImage:
    """Return an image file without its metadata. kind: its format; see `format_of`.

    What is not understood stays in place for the decoder to judge.
    """
    strip = _STRIP.get(kind or "")
    return BareImage(data, None) if strip is None else strip(data)


# JPEG: segments of marker, length and content, up to the first scan.
_SEGMENT = re.compile(rb"\xff+([^\x00\xff])(..)", re.DOTALL)
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xDA)])
_SCAN, _EXIF_SEGMENT, _COMMENT = 0xDA, 0xE1, 0xFE
_COLOUR_SEGMENTS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}
"""Segments that say how colours are coded: their start, and the shortest that libjpeg reads."""


def _strip_jpeg(data: bytes) -> BareImage:
    kept, exif, at = [data[:2]], [], 2
    while (found := _SEGMENT.search(data, at)) is not None:
        marker, end = found[1][0], found.end(1) + int.from_bytes(found[2])
        if marker == _SCAN or marker in _WITHOUT_LENGTH or not found.end() <= end <= len(data):
            break
        content = data[found.end() : end]
        if marker == _EXIF_SEGMENT and content.startswith(b"Exif\0\0"):
            exif.append(content[6:])  # EXIF data of more than 64 KiB has several segments
        if not 0xE0 <= marker <= 0xEF and marker != _COMMENT:
            kept.append(data[found.end(1) - 2 : end])
        elif marker in _COLOUR_SEGMENTS:
            start, size = _COLOUR_SEGMENTS[marker]
            if content.startswith(start) and len(content) >= size:
                kept.append(data[found.end(1) - 2 : end])
        at = end
    whole = b"".join([*kept, memoryview(data)[at:]])
    return BareImage(whole, exif_orientation(b"".join(exif)))


# PNG: chunks of length, kind, content and checksum.
_PIXEL_CHUNKS = frozenset([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
_METADATA_CHUNKS = frozenset(
    [
        *(b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"),
        *(b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI"),
        *(b"sBIT", b"bKGD", b"hIST", b"pHYs", b"sPLT", b"acTL", b"fcTL", b"fdAT"),
    ]
)
"""Chunks that may be damaged; one of an unknown kind could be a damaged one of pixels."""
_RAW_PROFILE = b"Raw profile type exif\0"
_MOST_PROFILE = 1 << 20
"""Bytes that are unpacked of EXIF data in a text; the orientation is among the first."""


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks of a PNG up to IEND, or to one that is no chunk or exceeds the file."""
    at, kind = 8, b""
    while at <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data[at : at + 8].ljust(8, b"\0"))
        yield _Chunk(kind, at, at + 12 + length)
        at += 12 + length
        if not kind.isalpha():
            return


def _strip_png(data: bytes) -> BareImage:
    view = memoryview(data)
    kept, exif, profile, fault = [view[:8]], b"", b"", ""
    for kind, start, end in _chunks(data):
        content = slice(start + 8, end - 4)
        fault = _chunk_fault(view, kind, start, end)
        if kind in _PIXEL_CHUNKS or fault:
            kept.append(view[start:end])
        elif kind == b"eXIf":
            exif = exif or data[content]
        elif kind in (b"tEXt", b"zTXt") and data[content].startswith(_RAW_PROFILE):
            profile = _raw_profile(data[content][len(_RAW_PROFILE) :], kind == b"zTXt")
        if fault:
            break
    return BareImage(b"".join(kept), exif_orientation(exif or profile), fault)


def png_orientation(file: IO[bytes] | BytesIO) -> int:
    """Return the orientation that a PNG states, as `without_metadata` does, without its pixels.

    1 if it states none. The data may come after the pixels, where PIL's header does not show it.
    """
    at, kind, exif, profile = 8, b"", b"", b""
    while kind != b"IEND":
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():
            break
        if kind == b"eXIf" and not exif:
            exif = file.read(length)
        elif kind in (b"tEXt", b"zTXt") and file.read(len(_RAW_PROFILE)) == _RAW_PROFILE:
            profile = _raw_profile(file.read(length - len(_RAW_PROFILE)), kind == b"zTXt")
        at += 12 + length
    return exif_orientation(exif or profile)


def _chunk_fault(data: memoryview, kind: bytes, start: int, end: int) -> str:
    if end > len(data):
        return "truncated PNG file"
    if kind in _METADATA_CHUNKS:
        return ""
    if zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end]):
        return ""
    return f"broken PNG file (wrong checksum of chunk {kind!r})"


def _raw_profile(text: bytes, is_packed: bool) -> bytes:
    """Return the EXIF data that ImageMagick writes as a text: three lines, then hexadecimal."""
    try:
        if is_packed:
            text = zlib.decompressobj().decompress(text[1:], _MOST_PROFILE)
        digits = b"".join(text[:_MOST_PROFILE].split(b"\n")[3:])
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except (zlib.error, ValueError):
        return b""


# TIFF: the first directory, which is written again with these tags and without further pages.
_PIXEL_TAGS = frozenset(
    [
        *(256, 257, 258, 259, 262, 266),  # size, bits, compression, meaning of samples
        *(273, 277, 278, 279, 284, *range(322, 326)),  # strips, samples, planes, tiles
        *(292, 293, 317, 347, *range(512, 522)),  # options of compression
        *(320, 338, 339, *range(529, 533)),  # palette, extra samples, sample format, YCbCr
    ]
)


def _strip_tiff(data: bytes) -> BareImage:
    directory = first_directory(BytesIO(data))
    if directory is None or not directory.is_whole:
        return BareImage(data, None)
    bare, view = directory.with_only(_PIXEL_TAGS), memoryview(data)
    whole = b"".join([view[: directory.offset], bare, view[directory.offset + len(bare) :]])
    return BareImage(whole, orientation_of(directory))


_KIND_OF_PAGE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 330, 50706


def is_raw_photo(file: IO[bytes] | BytesIO) -> bool:
    """Return whether a TIFF file is a camera's raw photo, whose first page is a thumbnail."""
    directory = first_directory(file)
    if directory is None:
        return False
    tags = {directory.tag(entry) for entry in directory.entries}
    is_thumbnail = bool((directory.integer(_KIND_OF_PAGE) or 0) & 1)
    return _DNG_VERSION in tags or (is_thumbnail and _SUB_DIRECTORIES in tags)


# AVIF, HEIC and JPEG 2000: boxes of length, kind and content, some of which hold boxes.
_HEADERS = {b"meta": 4, b"iinf": 6, b"moov": 0, b"trak": 0}
"""Bytes before the boxes in a box; `iinf` of version 1 has two more."""
_JPEG2000_BOXES = frozenset([b"jP  ", b"ftyp", b"jp2h", b"jp2c"])
_CODESTREAM, _START_OF_PIXELS, _END_OF_CODESTREAM = b"\xff\x4f\xff\x51", b"\xff\x93", b"\xff\xd9"
_JPEG2000_HEADERS = frozenset([b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef"])


class _Box(NamedTuple):
    kind: bytes
    start: int
    content: int
    end: int


def _boxes(data: bytes, at: int, stop: int) -> Iterator[_Box]:
    """Yield the boxes between two offsets; ends early where there is none."""
    while at + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, at)
        content = at + 8
        if size == 1 and at + 16 <= stop:
            size, content = struct.unpack_from(">Q", data, content)[0], at + 16
        end = stop if size == 0 else at + size
        if not content <= end <= stop:
            return
        yield _Box(kind, at, content, end)
        at = end


def _exif_items(data: bytes, at: int, stop: int) -> Iterator[int]:
    """Yield the offset of each name `Exif` in the list of items."""
    for box in _boxes(data, at, stop):
        if box.kind in _HEADERS:
            skip = _HEADERS[box.kind]
            if box.kind == b"iinf" and data[box.content : box.content + 1] != b"\0":
                skip += 2
            yield from _exif_items(data, box.content + skip, box.end)
        elif box.kind == b"infe":
            # Version, flags, number (4 bytes in version 3), protection, then the type.
            place = box.content + (10 if data[box.content : box.content + 1] == b"\3" else 8)
            if data[place : place + 4] == b"Exif":
                yield place


def _strip_items(data: bytes) -> BareImage:
    """Rename EXIF data to something that decoders skip; orientation is a property of the image."""
    bare = bytearray(data)
    for place in _exif_items(data, 0, len(data)):
        bare[place : place + 4] = b"skip"
    return BareImage(bytes(bare), None)


def _strip_jpeg2000(data: bytes) -> BareImage:
    if data.startswith(_CODESTREAM):
        return BareImage(data, None, _codestream_fault(data))
    boxes = list(_boxes(data, 0, len(data)))
    streams = [data[box.content : box.end] for box in boxes if box.kind == b"jp2c"]
    fault = _codestream_fault(streams[0] if streams else b"")
    if fault or boxes[-1].end < len(data) or boxes[0].kind != b"jP  ":
        return BareImage(data, None, fault)
    kept = []
    for box in boxes:
        if box.kind == b"jp2h":
            parts = _boxes(data, box.content, box.end)
            inside = b"".join(data[p.start : p.end] for p in parts if p.kind in _JPEG2000_HEADERS)
            kept.append(struct.pack(">I4s", 8 + len(inside), b"jp2h") + inside)
        elif box.kind in _JPEG2000_BOXES:
            kept.append(data[box.start : box.end])
    return BareImage(b"".join(kept), None)


def _codestream_fault(data: bytes) -> str:
    """Return the fault of a codestream that is cut short, of which decoders may read the rest."""
    start = data.find(_START_OF_PIXELS)  # behind it, the end mark stands nowhere else
    if start >= 0 and _END_OF_CODESTREAM in data[start:]:
        return ""
    return "truncated JPEG 2000 file, without an end mark"


_STRIP: dict[str, Callable[[bytes], BareImage]] = {
    "JPEG": _strip_jpeg,
    "PNG": _strip_png,
    "TIFF": _strip_tiff,
    "AVIF": _strip_items,
    "HEIC": _strip_items,
    "JPEG 2000": _strip_jpeg2000,
}
