"""The interface of image sources: uint8 batches in the form of a contract, read by index."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, SupportsIndex, final, overload

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from imagetok.data.image_header import ImageHeader
from imagetok.data.unreadable import Unreadable
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract, ImageSize
from imagetok.indices import SeveralIndices, checked_index, checked_indices, is_several

NO_LABEL = -1


class ImageBatch(NamedTuple):
    """Images with their labels and indices; a single image has no leading axis."""

    images: UInt8[Tensor, "*B C H W"]
    """Pixels in 0..255, or the classes of label maps; size and channels as in the contract."""
    labels: Int64[Tensor, "*B"]
    """Class index of each image, -1 for none."""
    indices: Int64[Tensor, "*B"]
    """Index of each image in the dataset that was read."""


Pictures = UInt8[Tensor, "B C H W"] | Sequence[UInt8[Tensor, "C _h _w"]]
"""Images of one size as a tensor, or of any sizes."""


class WholeImages(NamedTuple):
    """Images of any sizes with their labels."""

    images: Pictures
    """Pixels in 0..255, or the classes of label maps; channels as in the contract."""
    labels: Int64[Tensor, " B"]
    """Class index of each image, -1 for none."""


@final
class ImageSamples(Sequence[ImageBatch]):
    """The images of a batch, as a sequence.

    A DataLoader's `collate_fn` receives it. torch's default puts them together as an ImageBatch,
    and so does that of any list of single images.
    """

    def __init__(self, batch: ImageBatch):
        self.batch = batch

    @property
    def images(self) -> UInt8[Tensor, "B C H W"]:
        """Pixels in 0..255 of all images, or the classes of label maps."""
        return self.batch.images

    @property
    def labels(self) -> Int64[Tensor, " B"]:
        """Class index of each image, -1 for none."""
        return self.batch.labels

    @property
    def indices(self) -> Int64[Tensor, " B"]:
        """Index of each image in the dataset."""
        return self.batch.indices

    def __len__(self) -> int:
        return len(self.batch.labels)

    @overload
    def __getitem__(self, index: int) -> ImageBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageBatch]: ...
    def __getitem__(self, index: int | slice) -> ImageBatch | list[ImageBatch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return ImageBatch(*(tensor[index] for tensor in self.batch))

    def __iter__(self) -> Iterator[ImageBatch]:
        return (self[i] for i in range(len(self)))


def collate(images: Sequence[ImageBatch], *, collate_fn_map: object = None) -> ImageBatch:
    """Put single images together as a batch; torch's default_collate does so for any."""
    del collate_fn_map  # default_collate passes it on
    if isinstance(images, ImageSamples):
        return images.batch
    return ImageBatch(*(torch.stack(tensors) for tensors in zip(*images, strict=True)))


# torch's own way to say how `default_collate` treats a type; see the example in its documentation.
default_collate_fn_map[ImageBatch] = collate


class ImageDataset(Dataset[ImageBatch], ABC):
    """Images and their labels, with len(), indexing and batches.

    It is a map-style dataset of torch: `DataLoader(dataset, batch_size=8)` yields an ImageBatch,
    and `Subset`, `random_split` and others take it. `dataset[3]` is a single image, `dataset[3:8]`
    and `dataset[[3, 5]]` are a batch. A subclass implements `read`, `__len__` and `identity`.
    """

    name: str
    """Name of the source, such as "cifar10"."""
    split: str
    contract: ImageContract
    class_names: tuple[str, ...]
    """Class names by label; empty if unlabelled."""
    skipped: tuple[Unreadable, ...] = ()
    """Images of the source that are left out, because they cannot be read."""
    is_decoded_when_read: bool = False
    """Whether reading decodes files, which pays in processes of their own."""

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
        return WholeImages(batch.images, batch.labels)

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

        Raises ImageError if it is unreadable, as far as its header shows it, ConfigError for a
        source that doesn't tell.
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
        length = len(self)
        for index in indices:
            if not 0 <= index < length:
                where = f"{self.name}:{self.split}"
                raise IndexError(f"{where}: expected an index in [0, {length}), found {index}")

    def __getitem__(self, index: SupportsIndex | slice | SeveralIndices) -> ImageBatch:
        """Return one image, without a leading axis, or several as a batch.

        index: an integer, also as a NumPy or torch scalar; or a slice, a sequence, array or tensor
        of integers, or a boolean mask over all images. Negative integers count from the end.
        """
        if isinstance(index, slice):
            return self.read(range(*index.indices(len(self))))
        if is_several(index):
            return self.read(checked_indices(index, len(self)).tolist())
        batch = self.read([checked_index(index, len(self))])  # pyright: ignore[reportArgumentType]
        return ImageBatch(*(tensor[0] for tensor in batch))

    def __getitems__(self, indices: Sequence[int]) -> ImageSamples:
        """Return several images; torch's DataLoader calls this once per batch."""
        return ImageSamples(self.read(checked_indices(indices, len(self)).tolist()))


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
