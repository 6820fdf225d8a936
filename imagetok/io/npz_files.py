"""Writing and reading the arrays of an npz archive without holding them in memory."""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from lzma import LZMAError
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from imagetok.durable import staged_file

_DAMAGED = (EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, LZMAError)
"""What zipfile raises for damaged archives, and (RuntimeError) for encrypted ones."""


class StreamedArray(NamedTuple):
    """An array of known shape and type, whose rows are given in parts."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Iterable[np.ndarray]
    """Consecutive rows (axis 0), together as many as `shape` states."""


def write_npz(
    path: Path, arrays: Mapping[str, StreamedArray], texts: Mapping[str, bytes] | None = None
) -> None:
    """Write arrays, each as soon as its parts are given, to an npz file that `numpy.load` reads.

    The file appears complete and durable. It is not compressed, as that of `numpy.savez`, and
    depends on nothing but the content. texts: more members of the archive by name.
    """
    with staged_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # An array of more than 4 GiB needs zip64, which is chosen before its size is known.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(
                    member,
                    {
                        "descr": npy.dtype_to_descr(array.dtype),
                        "fortran_order": False,
                        "shape": array.shape,
                    },
                )
                for part in array.parts:
                    member.write(np.ascontiguousarray(part, dtype=array.dtype).data)
        for name, text in (texts or {}).items():
            archive.writestr(zipfile.ZipInfo(name), text)


def member_of(path: Path, name: str, most: int) -> bytes | None:
    """Return a member of a zip archive; None if there is none of at most `most` bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(name)
            return archive.read(info) if info.file_size <= most else None
    except (KeyError, OSError, *_DAMAGED):
        return None


def open_array(path: Path, name: str) -> np.ndarray:
    """Return an array of an npz file, memory-mapped if it is not compressed.

    Raises KeyError if there is none of this name, OSError if the file cannot be read, and
    ValueError if it is damaged, encrypted, or compressed in another way than NumPy's.
    """
    try:
        return _open_array(path, name)
    except (KeyError, OSError, ValueError):
        raise
    except (*_DAMAGED, TypeError) as fault:
        raise ValueError(str(fault) or type(fault).__name__) from None


def _open_array(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            version = npy.read_magic(member)
            read_header = (
                npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(member)
            header = member.tell()
            if dtype.hasobject:
                raise ValueError("an array of Python objects")
            if math.prod(shape) * dtype.itemsize != info.file_size - header:
                raise ValueError(f"its header states {shape} {dtype}, which is not its size")
            order = "F" if is_fortran else "C"
            if info.compress_type != zipfile.ZIP_STORED or math.prod(shape) == 0:
                return np.frombuffer(member.read(), dtype).reshape(shape, order=order)
    return np.memmap(path, dtype, "r", _data_start(path, info) + header, shape, order)


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin: after its local header, a name and an extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member has no local header")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra
