"""The interface of image sources: uint8 batches in the form of a contract, read by index."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from imagetok.data.image_header import ImageHeader
from imagetok.data.unreadable import Unreadable
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract, ImageSize

NO_LABEL = -1


class ImageBatch(NamedTuple):
    """Images with their labels and indices; a single image has no leading axis."""

    images: UInt8[Tensor, "*B C H W"]
    """Pixels in 0..255, or the classes of label maps; size and channels as in the contract."""
    labels: Int64[Tensor, "*B"]
    """Class index of each image, -1 for none."""
    indices: Int64[Tensor, "*B"]
    """Index of each image in the dataset that was read."""


class WholeImages(NamedTuple):
    """Images of any sizes with their labels."""

    images: Sequence[UInt8[Tensor, "C _h _w"]]
    """Pixels in 0..255, or the classes of label maps; channels as in the contract."""
    labels: Int64[Tensor, " B"]
    """Class index of each image, -1 for none."""


class ImageDataset(Dataset[ImageBatch], ABC):
    """A map-style dataset that is read in batches.

    A DataLoader over it needs `collate_fn=lambda batch: batch`, because it calls `__getitems__`,
    which returns a whole ImageBatch.
    """

    name: str
    """Name of the source, such as "cifar10"."""
    split: str
    contract: ImageContract
    class_names: tuple[str, ...]
    """Class names by label; empty if unlabelled."""
    skipped: tuple[Unreadable, ...] = ()
    """Images of the source that are left out, because they cannot be read."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the labels; None if unlabelled."""
        return len(self.class_names) or None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def identity(self) -> str:
        """Return a hash that changes when images are added, removed, replaced or relabelled.

        It depends on the order of the images, but not on the location of the dataset. For folders
        it covers relative paths, file sizes and labels, not pixels.
        """

    @abstractmethod
    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices`, each in [0, len), in that order; indices may repeat.

        Raises ImageError for the first image that cannot be read, IndexError for an index out of
        range.
        """

    def read_differently(self) -> str:
        """Return what earlier versions read differently here, for messages; "" if it is unknown."""
        return ""

    def read_whole(self, indices: Sequence[int]) -> WholeImages:
        """Return images before they are resized and cropped, or as `read` does if none are kept.

        They have the mode and the centre crop of the contract, but any size.
        """
        batch = self.read(indices)
        return WholeImages(tuple(batch.images), batch.labels)

    def sample(self, count: int = 8) -> str:
        """Return a hash of the pixels and labels of `count` images, spread over the dataset.

        It complements `identity`: it also differs for files of equal names and sizes.
        """
        digest = hashlib.sha256()
        for place in range(min(count, len(self))):
            try:
                batch = self.read([place * len(self) // min(count, len(self))])
                digest.update(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes())
            except InputError:
                digest.update(b"unreadable")
        return digest.hexdigest()

    def native_size(self, index: int) -> ImageSize:
        """Return (height, width) of an image before it is cropped or resized.

        Raises ImageError if it is unreadable, ConfigError for a source that doesn't tell.
        """
        del index
        raise ConfigError(
            f"{self.name}: images of this source have no size of their own; pass a size such as "
            "96x64 instead of native"
        )

    def with_contract(self, contract: ImageContract) -> "ImageDataset":
        """Return the same images brought to another contract of the same mode."""
        other = copy(self)
        other.contract = contract
        return other

    def path_of(self, index: int) -> str:
        """Return the path of an image, or source, split and index if it has none, for messages."""
        return f"{self.name}:{self.split}[{index}]"

    def header(self, index: int) -> ImageHeader | None:
        """Return the header of an image's file, read without its pixels; None without a file.

        Raises ImageError for a file that is missing or damaged, as far as this shows it.
        """
        del index
        return None

    def file_of(self, index: int) -> Path | None:
        """Return the local file that holds an image, perhaps among others; None for none."""
        del index
        return None

    def check_indices(self, indices: Sequence[int]) -> None:
        """Raise IndexError for the first index outside [0, len)."""
        for index in indices:
            if not 0 <= index < len(self):
                where = f"{self.name}:{self.split}"
                raise IndexError(f"{where}: expected an index in [0, {len(self)}), found {index}")

    def __getitem__(self, index: int) -> ImageBatch:
        batch = self.read([index])
        return ImageBatch(batch.images[0], batch.labels[0], batch.indices[0])

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        return self.read(indices)


@final
class ArrayImages(ImageDataset):
    """Images in memory that already have the mode and size of the contract."""

    def __init__(
        self,
        images: UInt8[Tensor, "B C H W"],
        labels: Int64[Tensor, " B"] | None = None,
        *,
        name: str,
        split: str,
        contract: ImageContract,
        class_names: tuple[str, ...] = (),
    ):
        expected = (contract.channels, contract.height, contract.width)
        assert tuple(images.shape[1:]) == expected, "bring images to the contract's form first"
        self.images = images
        self.labels = torch.full((len(images),), NO_LABEL) if labels is None else labels
        self.name = name
        self.split = split
        self.contract = contract
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Return a hash of all pixels and labels."""
        digest = hashlib.sha256(self.images.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return copies of the images at `indices`."""
        self.check_indices(indices)
        chosen = torch.tensor(indices, dtype=torch.int64)
        return ImageBatch(self.images[chosen], self.labels[chosen], chosen)
