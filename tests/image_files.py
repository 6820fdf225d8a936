"""Image files made byte by byte, so that what a reader must give is known without a reader."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

TIFF_TYPES = {"H": 3, "I": 4}


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Rows of samples (H, W) or (H, W, C), most significant bit first."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in rows]
    binary = (rows[..., None] >> np.arange(bits)[::-1]) & 1
    return [row.tobytes() for row in np.packbits(binary.reshape(len(rows), -1), axis=1)]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    values: np.ndarray, bits: int, colour: int, *chunks: bytes, size: tuple[int, int] | None = None
) -> bytes:
    """colour: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA. size: (width, height) to claim."""
    width, height = size or (values.shape[1], values.shape[0])
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced_png(grey: np.ndarray) -> bytes:
    """Adam7: seven sparse pictures, one after the other."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)]
    starts += [(2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [grey[row::rows, column::columns] for row, column, rows, columns in starts]
    rows = [b"\0" + row.tobytes() for part in passes if part.size for row in part]
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(
    data: bytes,
    size: tuple[int, int],
    bits: tuple[int, ...],
    photometric: int,
    order: str = "<",
    **more,
) -> bytes:
    """One strip. size: (width, height). more: tags t123=(kind, values), kind H or I."""
    tags: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (size[0],)),
        257: ("I", (size[1],)),
        258: ("H", bits),
        259: ("H", (1,)),
        262: ("H", (photometric,)),
        277: ("H", (len(bits),)),
        278: ("I", (size[1],)),
        279: ("I", (len(data),)),
        **{int(name[1:]): value for name, value in more.items()},
    }
    tags[273] = ("I", (8,))
    start = 8 + len(data) + len(data) % 2
    tail = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag in sorted(tags):
        kind, numbers = tags[tag]
        value = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(value) > 4:
            values, value = values + value, struct.pack(f"{order}I", tail + len(values))
        entries += struct.pack(f"{order}HHI", tag, TIFF_TYPES[kind], len(numbers))
        entries += value.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    body = head + data + b"\0" * (len(data) % 2)
    return body + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4 + values


def pnm(kind: int, values: np.ndarray, largest: int) -> bytes:
    """A binary grey map (5) or pixel map (6); values of more than 8 bits are big-endian."""
    height, width = values.shape[:2]
    return b"P%d\n%d %d\n%d\n" % (kind, width, height, largest) + values.tobytes()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """A file as PIL writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
