"""The first directory of a TIFF file or of EXIF data, which has the same form."""

import struct
from io import BytesIO
from typing import IO, NamedTuple

ORIENTATION = 274
_EXIF = b"Exif\0\0"
_MOST_ENTRIES = 1 << 16
_ORDERS = {b"II": "<", b"MM": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT and LONG


class TiffDirectory(NamedTuple):
    """The entries of a directory, undecoded and in the order of the file."""

    order: str
    """Byte order, as `struct` writes it."""
    is_big: bool
    """Whether it is a BigTIFF, whose offsets have 64 bits."""
    offset: int
    """Byte offset of the directory."""
    entries: tuple[bytes, ...]
    """Entries of 12 bytes, or 20 in a BigTIFF: tag, type, count, and the value or its offset."""
    is_whole: bool
    """Whether the data ends after the directory, not in it."""

    def tag(self, entry: bytes) -> int:
        """Return the tag of an entry."""
        return struct.unpack_from(f"{self.order}H", entry)[0]

    def integer(self, tag: int) -> int | None:
        """Return the first integer of a tag whose value is in the entry itself; None without it."""
        entry = next((entry for entry in self.entries if self.tag(entry) == tag), None)
        if entry is None:
            return None
        letter = _INTEGERS.get(struct.unpack_from(f"{self.order}H", entry, 2)[0])
        place = 12 if self.is_big else 8
        return None if letter is None else struct.unpack_from(self.order + letter, entry, place)[0]

    def with_only(self, tags: frozenset[int]) -> bytes:
        """Return the bytes of this directory with some of its tags and no next directory."""
        kept = [entry for entry in self.entries if self.tag(entry) in tags]
        count, end = ("Q", "Q") if self.is_big else ("H", "I")
        head = struct.pack(self.order + count, len(kept))
        return head + b"".join(kept) + struct.pack(self.order + end, 0)


def first_directory(file: IO[bytes] | BytesIO) -> TiffDirectory | None:
    """Return the first directory of a TIFF file, with the entries that are there; None without."""
    file.seek(0)
    head = file.read(16)
    order, is_big = _ORDERS.get(head[:2]), head[2:4] in (b"+\0", b"\0+")
    if order is None or not (is_big or head[2:4] in (b"*\0", b"\0*")):
        return None
    try:
        offset = struct.unpack_from(order + ("Q" if is_big else "I"), head, 8 if is_big else 4)[0]
        file.seek(offset)
        count = struct.unpack(order + ("Q" if is_big else "H"), file.read(8 if is_big else 2))[0]
        size = 20 if is_big else 12
        data = file.read(min(count, _MOST_ENTRIES) * size)
    except (struct.error, OverflowError, ValueError):
        return None
    entries = (data[at : at + size] for at in range(0, len(data) - size + 1, size))
    return TiffDirectory(order, is_big, offset, tuple(entries), is_whole=len(data) == count * size)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, of EXIF data; 1 if it has none or is damaged.

    Only tag 274 of the first directory is read; everything else may have any form.
    """
    while exif.startswith(_EXIF):
        exif = exif[len(_EXIF) :]
    return orientation_of(first_directory(BytesIO(exif)))


def orientation_of(directory: TiffDirectory | None) -> int:
    """Return the orientation that a directory states, 1 to 8; 1 without one."""
    found = None if directory is None else directory.integer(ORIENTATION)
    return found if found is not None and 1 <= found <= 8 else 1
