"""Codes as .npy files: a folder with an array per level, labels, source indices and metadata."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, final

import numpy as np

from imagetok.codes.interchange.format import Binding, CodeRows, ReadableRows, code_names
from imagetok.codes.schema import CodePlan, read_json
from imagetok.durable import MANIFEST, staged_folder, verify_folder, write_json
from imagetok.errors import InputError
from imagetok.io.regular_files import open_regular
from imagetok.suggestions import counted

BINDING = "imagetok.json"


def write_npy(
    out: Path, plan: CodePlan, count: int, rows: Iterator[CodeRows], bind: Callable[[], Binding]
) -> None:
    """Write a folder of .npy files with a manifest of hashes; it appears only when complete.

    rows: consecutive rows; only one item at a time is held in memory. bind: returns the metadata;
    called after the last row.
    """
    arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        name: (plan.code_dtype(level), plan.grids[level])
        for level, name in enumerate(code_names(len(plan.num_codes)))
    }
    if plan.labelled:
        arrays["labels"] = (np.dtype("<i4"), ())
    arrays["index"] = (np.dtype("<u8"), ())
    with staged_folder(out) as folder:
        with ExitStack() as stack:
            files: list[IO[bytes]] = []
            for name, (dtype, shape) in arrays.items():
                file = stack.enter_context((folder / f"{name}.npy").open("wb"))
                header = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(file, header)
                files.append(file)
            for piece in rows:
                present = [a for a in (*piece.codes, piece.labels, piece.keys) if a is not None]
                for file, array in zip(files, present, strict=True):
                    file.write(np.ascontiguousarray(array).data)
        write_json(folder / BINDING, bind().model_dump(mode="json"))


@final
class NpyRows(ReadableRows):
    """Codes in a folder as `write_npy` writes it, in one with only some files, or in one .npy."""

    def __init__(self, path: Path, levels: int):
        """Open the arrays of a folder or file, for a tokenizer of `levels` levels.

        A folder needs `codes.npy` (`codes0.npy`, `codes1.npy`, ... for several levels);
        `labels.npy`, `index.npy` and `imagetok.json` are optional. A single file holds only codes.
        """
        self.where = str(path)
        folder = path if path.is_dir() else None
        if folder and (folder / MANIFEST).is_file():
            faults = verify_folder(folder)
            if faults:
                raise InputError(f"{'; '.join(faults)}; copy or export it again")
        names = code_names(levels)
        files = [folder / f"{name}.npy" for name in names] if folder else [path] * levels
        if levels > 1 and folder is None:
            wanted = ", ".join(f"{name}.npy" for name in names)
            raise InputError(f"{path}: expected a folder of {wanted}, found one file")
        self._codes = [_map(file) for file in files]
        self._labels = _map_if_there(folder, "labels")
        self._index = _map_if_there(folder, "index")
        self.is_labelled = self._labels is not None
        self.count = len(self._codes[0])
        for array in (*self._codes, self._labels, self._index):
            if array is not None and len(array) != self.count:
                raise InputError(
                    f"{path}: expected arrays of equal length, found {self.count} and {len(array)}"
                )
        has_binding = folder is not None and (folder / BINDING).is_file()
        self.binding = read_json(folder / BINDING, Binding) if folder and has_binding else None

    def read(self, start: int, stop: int) -> CodeRows:
        codes = tuple(level[start:stop] for level in self._codes)
        labels = None if self._labels is None else self._labels[start:stop]
        return CodeRows(codes, labels, None if self._index is None else self._index[start:stop])


def _map_if_there(folder: Path | None, name: str) -> np.ndarray | None:
    path = folder / f"{name}.npy" if folder else None
    return _map(path) if path and path.is_file() else None


def _map(path: Path) -> np.ndarray:
    """Memory-map an array; refuses pickled objects and a header that does not fit the file size."""
    try:
        open_regular(path).close()
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: missing; expected a file of codes") from None
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError) as error:
        raise InputError(f"{path}: not a .npy array, or a damaged one ({error})") from None
    if not isinstance(array, np.memmap) or array.ndim == 0:
        raise InputError(f"{path}: expected one .npy array with one row per image")
    if array.offset + array.nbytes != path.stat().st_size:
        raise InputError(
            f"{path}: expected {counted(array.nbytes, 'byte')} of data, found more; the file is "
            "damaged"
        )
    return array
