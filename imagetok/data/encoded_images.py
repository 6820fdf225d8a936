"""Images that lie encoded somewhere and are decoded when they are read."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset
from imagetok.data.image_decoding import ImageError, open_image
from imagetok.data.preprocessing import preprocess
from imagetok.durable import canonical_json
from imagetok.errors import InputError
from imagetok.images import ImageContract

_PIECE = 4096


class EncodedImages(ImageDataset, ABC):
    """Encoded images with labels; a leaf says where image `index` lies and how to open it."""

    def __init__(
        self,
        name: str,
        split: str,
        contract: ImageContract,
        labels: list[int],
        class_names: tuple[str, ...],
    ):
        """labels: one an image, NO_LABEL where there is none."""
        self.name = name
        self.split = split
        self.contract = contract
        self.class_names = class_names
        self.labels = labels

    @abstractmethod
    def decode(self, index: int) -> UInt8[np.ndarray, "H W *C"]:
        """The pixels of one image as `open_image` gives them; ImageError if it is damaged."""

    @abstractmethod
    def contents(self) -> list[tuple[str, int]]:
        """Of each image a name that does not depend on where the dataset lies, and its bytes."""

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> str:
        """Of the images' names, sizes in bytes and labels; InputError for a name not in UTF-8."""
        content = [(*c, n) for c, n in zip(self.contents(), self.labels, strict=True)]
        digest = hashlib.sha256(b"[")
        try:
            for first in range(0, len(content), _PIECE):  # whole, the text is as large as a list
                piece = canonical_json(content[first : first + _PIECE])[1:-1]
                digest.update(b"," + piece if first else piece)
            digest.update(b"]")
            return digest.hexdigest()
        except UnicodeEncodeError:
            # Bytes of a file name that are no UTF-8 are surrogates.
            name = next(n for n, *_ in content if any("\ud800" <= c <= "\udfff" for c in n))
            raise InputError(
                f"{self.name}: {name!r}: expected a name in UTF-8, found another; rename it"
            ) from None

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`; raises ImageError at the first that cannot be read."""
        self.check_indices(indices)
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        images = torch.empty(shape, dtype=torch.uint8)
        for position, index in enumerate(indices):
            images[position] = self._preprocessed(index)
        labels = torch.tensor([self.labels[i] for i in indices], dtype=torch.int64)
        return ImageBatch(images, labels, torch.tensor(indices, dtype=torch.int64))

    @property
    def as_labels(self) -> bool:
        """Whether the images are label maps."""
        return self.contract.mode == "labels"

    def _preprocessed(self, index: int) -> UInt8[Tensor, "C H W"]:
        pixels = self.decode(index)
        try:
            return preprocess(pixels, self.contract)
        except InputError as error:  # a class that the contract does not have
            where = self.path_of(index)
            raise ImageError(f"{where}: {error}", where, "unknown_class") from None


@final
class FileImages(EncodedImages):
    """Image files, each on its own."""

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
        """files: paths below `root`; labels: one a file, none if unlabelled."""
        labels = [NO_LABEL] * len(files) if labels is None else labels
        super().__init__(name, split, contract, labels, class_names)
        self.root = root
        self.files = files

    def decode(self, index: int) -> UInt8[np.ndarray, "H W *C"]:
        """The pixels of one file."""
        return open_image(self.root / self.files[index], self.as_labels)

    def contents(self) -> list[tuple[str, int]]:
        """The files' paths below the root, and their sizes."""
        at = below(self.root)
        return [(file, file_size(at(file))) for file in self.files]

    def path_of(self, index: int) -> str:
        """The path of one file, as it was found below the root."""
        return str(self.root / self.files[index])


def is_file(path: Path) -> bool:
    """Whether a file is there; of a name that no file can have, too."""
    try:
        return path.is_file()
    except OSError:
        return False


def below(root: Path) -> Callable[[str], str]:
    """`root / file` as text: a million of paths take longer to build than to look at."""
    prefix = f"{root}/"
    return lambda file: file if file.startswith("/") else prefix + file


def file_size(path: Path | str) -> int:
    """The size of a file in bytes, -1 where it cannot be told, such as of a broken link."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return -1
