"""A part of an image dataset, drawn with a fixed seed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch

from imagetok import seeding
from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.data.image_header import ImageHeader
from imagetok.errors import ConfigError


@final
class ImageSubset(ImageDataset):
    """`count` images of a dataset, drawn without replacement with a fixed seed, in their order.

    The same count of the same dataset is always the same subset. Raises ConfigError for a count
    below 1, or above the number of images.
    """

    def __init__(self, dataset: ImageDataset, count: int):
        self.whole = dataset
        self.name, self.split = dataset.name, dataset.split
        self.contract, self.class_names = dataset.contract, dataset.class_names
        self.skipped = dataset.skipped
        if not 1 <= count <= len(dataset):
            raise ConfigError(
                f"--reference-count: expected 1 to {len(dataset):,}, the images of "
                f"{self.name}:{self.split}, found {count:,}; lower it, or choose another split"
            )
        self.indices = drawn_indices(len(dataset), count)

    def __len__(self) -> int:
        return len(self.indices)

    def identity(self) -> str:
        """Return a hash of the whole dataset's identity and of the chosen indices."""
        return hashlib.sha256(f"{self.whole.identity()} {self.indices}".encode()).hexdigest()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices` of the subset."""
        self.check_indices(indices)
        batch = self.whole.read([self.indices[i] for i in indices])
        return batch._replace(indices=torch.tensor(indices, dtype=torch.int64))

    def path_of(self, index: int) -> str:
        """Return the path of an image in the whole dataset."""
        return self.whole.path_of(self.indices[index])

    def header(self, index: int) -> ImageHeader | None:
        return self.whole.header(self.indices[index])

    def file_of(self, index: int) -> Path | None:
        return self.whole.file_of(self.indices[index])


def drawn_indices(total: int, count: int) -> list[int]:
    """Return `count` of the indices below `total`, drawn with a fixed seed, in increasing order."""
    order = torch.randperm(total, generator=seeding.generator(0, "image subset", total))
    return sorted(order[:count].tolist())
