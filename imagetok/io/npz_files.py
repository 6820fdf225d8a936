"""Writing an npz archive array by array, without holding an array in memory."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from imagetok.durable import staged_file


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
    except (KeyError, OSError, zipfile.BadZipFile):
        return None
