"""Parts of an image dataset: chosen images, the first ones, and some drawn with a fixed seed."""

import hashlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import final

import torch

from imagetok import seeding
from imagetok.arguments import checked_count
from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.data.image_header import ImageHeader
from imagetok.errors import ConfigError
from imagetok.images import ImageContract, ImageSize


class ChosenImages(ImageDataset):
    """Some images of a dataset, `whole`, by their `indices` in it; subclasses give the identity."""

    def __init__(self, whole: ImageDataset, indices: Sequence[int]):
        self.whole = whole
        self.indices = indices
        self.name, self.split = whole.name, whole.split
        self.contract, self.class_names = whole.contract, whole.class_names
        self.skipped = whole.skipped
        self.is_decoded_when_read = whole.is_decoded_when_read

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices` of the chosen images."""
        self.check_indices(indices)
        batch = self.whole.read([self.indices[i] for i in indices])
        return batch._replace(indices=torch.tensor(indices, dtype=torch.int64))

    def read_differently(self) -> str:
        return self.whole.read_differently()

    def native_size(self, index: int) -> ImageSize:
        return self.whole.native_size(self.indices[index])

    def with_contract(self, contract: ImageContract) -> "ChosenImages":
        other = copy(self)
        other.whole, other.contract = self.whole.with_contract(contract), contract
        return other

    def path_of(self, index: int) -> str:
        return self.whole.path_of(self.indices[index])

    def header(self, index: int) -> ImageHeader | None:
        return self.whole.header(self.indices[index])

    def file_of(self, index: int) -> Path | None:
        return self.whole.file_of(self.indices[index])


@final
class FirstImages(ChosenImages):
    """The first `limit` images of a dataset, or all if there are fewer."""

    def __init__(self, dataset: ImageDataset, limit: int):
        super().__init__(dataset, range(min(checked_count("limit", limit), len(dataset))))

    def identity(self) -> str:
        """Return the whole dataset's identity and the number of images."""
        return f"{self.whole.identity()}[:{len(self)}]"


@final
class ImageSubset(ChosenImages):
    """`count` images of a dataset, drawn without replacement with a fixed seed, in their order.

    The same count of the same dataset is always the same subset. Raises ConfigError for a count
    below 1, or above the number of images.
    """

    def __init__(self, dataset: ImageDataset, count: int):
        if not 1 <= count <= len(dataset):
            raise ConfigError(
                f"--reference-count: expected 1 to {len(dataset):,}, the images of "
                f"{dataset.name}:{dataset.split}, found {count:,}; lower it, or choose another "
                "split"
            )
        super().__init__(dataset, drawn_indices(len(dataset), count))

    def identity(self) -> str:
        """Return a hash of the whole dataset's identity and of the chosen indices."""
        return hashlib.sha256(f"{self.whole.identity()} {self.indices}".encode()).hexdigest()


def drawn_indices(total: int, count: int) -> list[int]:
    """Return `count` of the indices below `total`, drawn with a fixed seed, in increasing order."""
    order = torch.randperm(total, generator=seeding.generator(0, "image subset", total))
    return sorted(order[:count].tolist())
