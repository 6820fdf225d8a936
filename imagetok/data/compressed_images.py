"""Datasets of encoded images (JPEG, PNG, ...) that are decoded when they are read."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset, WholeImages
from imagetok.data.file_formats import newly_known
from imagetok.data.image_decoding import EncodedFile, ImageError, decode_file, open_encoded
from imagetok.data.image_header import ImageHeader, read_header
from imagetok.data.preprocessing import preprocess, whole_picture
from imagetok.durable import canonical_json
from imagetok.errors import InputError
from imagetok.images import ImageContract, ImageSize

_PIECE = 4096


class CompressedImages(ImageDataset, ABC):
    """Encoded images with labels; subclasses locate and decode each image."""

    is_decoded_when_read = True

    def __init__(
        self,
        name: str,
        split: str,
        contract: ImageContract,
        labels: list[int],
        class_names: tuple[str, ...],
    ):
        """Store the labels: one per image, NO_LABEL for an image without one."""
        self.name = name
        self.split = split
        self.contract = contract
        self.class_names = class_names
        self.labels = labels

    @abstractmethod
    def encoded(self, index: int) -> EncodedFile:
        """Open the encoded bytes of one image; ImageError if they cannot be read."""

    def decode(self, index: int) -> UInt8[np.ndarray, "H W *C"]:
        """Decode the pixels of one image, as `open_image` does; ImageError if it is damaged."""
        with self.encoded(index) as file:
            return decode_file(file, self.path_of(index), self.as_labels)

    def header(self, index: int) -> ImageHeader:
        """Read the header of one image; ImageError if it is damaged."""
        with self.encoded(index) as file:
            return read_header(file, self.path_of(index))

    @abstractmethod
    def contents(self) -> list[tuple[str, int]]:
        """Return a name and the size in bytes of each image.

        The names do not depend on the location of the dataset.
        """

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> str:
        """Return a hash of the images' names, sizes in bytes and labels.

        Raises InputError for a name that is not UTF-8.
        """
        content = [(*c, n) for c, n in zip(self.contents(), self.labels, strict=True)]
        digest = hashlib.sha256(b"[")
        try:
            for first in range(0, len(content), _PIECE):  # in pieces, to save memory
                piece = canonical_json(content[first : first + _PIECE])[1:-1]
                digest.update(b"," + piece if first else piece)
            digest.update(b"]")
            return digest.hexdigest()
        except UnicodeEncodeError:
            # Python represents bytes of a file name that are not UTF-8 as surrogates.
            name = next(n for n, *_ in content if any("\ud800" <= c <= "\udfff" for c in n))
            raise InputError(
                f"{self.name}: {name!r}: expected a file name in UTF-8, found other bytes; rename "
                "the file"
            ) from None

    def read_differently(self) -> str:
        """Return how many of the images are of formats that earlier versions left out."""
        found = newly_known(name for name, _ in self.contents())
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in found.items())
        return f"images that earlier versions left out are counted ({kinds})" if found else ""

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices`; raises ImageError for the first that is unreadable."""
        self.check_indices(indices)
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        images = torch.empty(shape, dtype=torch.uint8)
        for position, index in enumerate(indices):
            images[position] = self._prepared(index, preprocess)
        chosen = torch.tensor(indices, dtype=torch.int64)
        return ImageBatch(images, self._labels_of(indices), chosen)

    def read_whole(self, indices: Sequence[int]) -> WholeImages:
        """Return images at their own sizes; raises ImageError for the first that is unreadable."""
        self.check_indices(indices)
        images = tuple(self._prepared(index, whole_picture) for index in indices)
        return WholeImages(images, self._labels_of(indices))

    def native_size(self, index: int) -> ImageSize:
        """Return (height, width) of the upright image, by its header."""
        header = self.header(index)
        return header.height, header.width

    @property
    def as_labels(self) -> bool:
        """Whether the images are read as label maps."""
        return self.contract.mode == "labels"

    def _labels_of(self, indices: Sequence[int]) -> Int64[Tensor, " B"]:
        return torch.tensor([self.labels[i] for i in indices], dtype=torch.int64)

    def _prepared(
        self, index: int, prepare: Callable[[np.ndarray, ImageContract], Tensor]
    ) -> UInt8[Tensor, "C H W"]:
        pixels = self.decode(index)
        try:
            return prepare(pixels, self.contract)
        except InputError as error:  # a class outside the contract's num_classes
            where = self.path_of(index)
            raise ImageError(f"{where}: {error}", where, "unknown_class") from None


@final
class FileImages(CompressedImages):
    """A list of image files."""

    def __init__(
        self,
        root: Path,
        files: list[str],
        *,
        name: str,
        split: str,
        contract: ImageContract,
        labels: list[int] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        """Store the list of files.

        files: paths relative to `root`. labels: one per file; None for an unlabelled dataset.
        """
        labels = [NO_LABEL] * len(files) if labels is None else labels
        super().__init__(name, split, contract, labels, class_names)
        self.root = root
        self.files = files

    def encoded(self, index: int) -> EncodedFile:
        """Open one file."""
        return open_encoded(self.root / self.files[index])

    def file_of(self, index: int) -> Path:
        """Return the path of one file."""
        return self.root / self.files[index]

    def contents(self) -> list[tuple[str, int]]:
        """Return the path relative to the root and the size in bytes of each file."""
        at = below(self.root)
        return [(file, file_size(at(file))) for file in self.files]

    def path_of(self, index: int) -> str:
        """Return the path of one file, starting with the root."""
        return str(self.root / self.files[index])


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that the file system does not allow."""
    try:
        return path.is_file()
    except OSError:
        return False


def below(root: Path) -> Callable[[str], str]:
    """Return a function that joins `root` and a file name as text, faster than pathlib does."""
    prefix = f"{root}/"
    return lambda file: file if file.startswith("/") else prefix + file


def file_size(path: Path | str) -> int:
    """Return the size of a file in bytes; -1 if it is unknown, as for a broken link."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1
