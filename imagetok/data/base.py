"""What every source of images gives: uint8 batches of the contract's form, read by index."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from imagetok.errors import InputError
from imagetok.images import ImageContract

NO_LABEL = -1


class ImageBatch(NamedTuple):
    """Images with where they come from; one image alone has no leading axis."""

    images: UInt8[Tensor, "*B C H W"]  # of the contract's form: 0..255, or classes
    labels: Int64[Tensor, "*B"]  # class, -1 = none
    indices: Int64[Tensor, "*B"]  # position in the dataset that was read


class ImageDataset(Dataset[ImageBatch], ABC):
    """A map-style dataset that is read in batches.

    A DataLoader over it takes `collate_fn=lambda batch: batch`: its fetcher calls `__getitems__`,
    which already gives a whole ImageBatch.
    """

    name: str  # of the source, e.g. "cifar10"
    split: str
    contract: ImageContract
    class_names: tuple[str, ...]  # by label; empty if unlabelled

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels have; None if unlabelled."""
        return len(self.class_names) or None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def identity(self) -> str:
        """A hash that changes when images are added, removed, replaced, reordered or relabelled.

        It does not depend on where they lie. A folder's sees paths, sizes and labels, not pixels.
        """

    @abstractmethod
    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`, each in [0, len), in that order, repetitions allowed.

        Raises ImageError at the first image that cannot be read, IndexError outside the dataset.
        """

    def sample(self, count: int = 8) -> str:
        """A hash of the pixels and labels of some images, spread over the dataset.

        Beside `identity`, for what has the same names and sizes and shows something else.
        """
        digest = hashlib.sha256()
        for place in range(min(count, len(self))):
            try:
                batch = self.read([place * len(self) // min(count, len(self))])
                digest.update(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes())
            except InputError:
                digest.update(b"unreadable")
        return digest.hexdigest()

    def path_of(self, index: int) -> str:
        """A name of one input for messages: its path, or its place in the dataset."""
        return f"{self.name}:{self.split}[{index}]"

    def check_indices(self, indices: Sequence[int]) -> None:
        """Raise IndexError at the first index outside [0, len)."""
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
    """Images held in memory, already in the contract's form."""

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
        """Of all pixels and labels."""
        digest = hashlib.sha256(self.images.numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`, copied."""
        self.check_indices(indices)
        chosen = torch.tensor(indices, dtype=torch.int64)
        return ImageBatch(self.images[chosen], self.labels[chosen], chosen)
