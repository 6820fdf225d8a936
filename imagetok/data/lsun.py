"""LSUN scenes (Yu et al. 2015) from their LMDB files, without torchvision's pickled key cache."""

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, final

from imagetok.data.base import NO_LABEL
from imagetok.data.compressed_images import CompressedImages
from imagetok.data.config import LSUNConfig
from imagetok.data.image_decoding import EncodedFile, ImageError
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.optional import require

_PARTS = {"train": ("train",), "val": ("val",), "test": ("val",), "all": ("train", "val")}


class LMDBEntry(NamedTuple):
    """One image of an LMDB database: its folder, its key and its size in bytes."""

    folder: str
    key: bytes
    size: int


@final
class LSUNImages(CompressedImages):
    """Encoded images in LMDB folders, in the order of their keys."""

    def __init__(self, entries: list[LMDBEntry], *, split: str, contract: ImageContract):
        super().__init__("lsun", split, contract, [NO_LABEL] * len(entries), ())
        self.entries = entries

    def encoded(self, index: int) -> EncodedFile:
        """Read the bytes of one entry."""
        folder, key, _ = self.entries[index]
        name = self.path_of(index)
        try:
            with _environment(folder).begin() as transaction:
                data = transaction.get(key)
        except _library().Error as error:
            raise ImageError(f"{name}: cannot be read: {error}", name) from None
        return BytesIO(data)

    def file_of(self, index: int) -> Path:
        """Return the path of the database of one entry."""
        return Path(self.entries[index].folder, "data.mdb")

    def contents(self) -> list[tuple[str, int]]:
        """Return the key (in hexadecimal) and the size in bytes of each image."""
        return [(entry.key.hex(), entry.size) for entry in self.entries]

    def path_of(self, index: int) -> str:
        """Return the LMDB folder and the key of an image as one text."""
        entry = self.entries[index]
        return f"{entry.folder}/{entry.key.decode(errors='replace')}"


def open_lsun(config: LSUNConfig, split: str, contract: ImageContract) -> LSUNImages:
    """Open one category, sorted by key; split test is the 300 images of val, as in the papers.

    Raises ResourceError without the package lmdb, InputError if the files are missing or damaged.
    """
    root = Path(config.root).expanduser()
    entries = []
    for part in _PARTS[split]:
        folder = root / f"{config.category}_{part}_lmdb"
        if not (folder / "data.mdb").is_file():
            raise InputError(
                f"lsun: expected {folder / 'data.mdb'}, found nothing; download it with "
                f"`download.py -c {config.category}` of github.com/fyu/lsun and unzip it there"
            )
        entries += _entries(str(folder))
    if not entries:
        raise InputError(f"lsun: expected images in {root}, found empty databases")
    return LSUNImages(entries, split=split, contract=contract)


def _entries(folder: str) -> list[LMDBEntry]:
    try:
        with _environment(folder).begin(buffers=True) as transaction:
            return [
                LMDBEntry(folder, bytes(key), len(value)) for key, value in transaction.cursor()
            ]
    except _library().Error as error:
        raise _damaged(folder, error) from None


@cache  # LMDB allows one open environment per folder and process
def _environment(folder: str) -> Any:
    lmdb = _library()
    try:
        environment = lmdb.open(folder, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise _damaged(folder, error) from None
    # Pages are memory-mapped, so reading one beyond the end of the file would kill the process.
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = (Path(folder) / "data.mdb").stat().st_size
    if found < expected:
        environment.close()
        raise _damaged(folder, f"expected {expected:,} bytes, found {found:,}")
    return environment


def _library() -> Any:
    return require("lmdb", extra="data", purpose="data.source lsun")


def _damaged(folder: str, found: object) -> InputError:
    return InputError(f"lsun: {folder}: the database is damaged ({found}); unzip it again")
