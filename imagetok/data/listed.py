"""The list of a dataset's images, by which a run finds the same ones again."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int64
from pydantic import model_validator
from torch import Tensor

from imagetok.config import Section
from imagetok.data.base import ImageBatch, ImageDataset, WholeImages
from imagetok.data.compressed_images import CompressedImages
from imagetok.data.image_decoding import ImageError
from imagetok.data.image_header import ImageHeader
from imagetok.data.unreadable import Unreadable


class ImageList(Section):
    """The images of a dataset in order.

    Names, sizes and labels are empty for images that are not found by a unique name (digits,
    arrays, ...), which are recognised by their identity only.
    """

    count: int
    identity: str
    """`ImageDataset.identity` when the list was made."""
    names: tuple[str, ...] = ()
    """Names of the images, which do not depend on the location of the dataset."""
    sizes: tuple[int, ...] = ()
    """Sizes of the encoded images in bytes."""
    labels: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "ImageList":
        for name in ("names", "sizes", "labels"):
            found = len(getattr(self, name))
            if found != (self.count if self.names else 0):
                raise ValueError(f"{name}: expected one for each of {self.count}, found {found}")
        return self

    @classmethod
    def of(cls, dataset: ImageDataset) -> "ImageList":
        """List the images of a dataset as they are now."""
        content = dataset.contents() if isinstance(dataset, CompressedImages) else []
        names = [name for name, _ in content]
        alone = cls(count=len(dataset), identity=dataset.identity())
        if not isinstance(dataset, CompressedImages) or max(Counter(names).values()) > 1:
            return alone
        return alone.model_copy(
            update={
                "names": tuple(names),
                "sizes": tuple(size for _, size in content),
                "labels": tuple(dataset.labels),
                "class_names": dataset.class_names,
            }
        )


@final
class ListedImages(ImageDataset):
    """The images of a list, in its order and with its labels, wherever the dataset has them now.

    An image that the dataset no longer has is unreadable, with the reason "missing".
    """

    def __init__(
        self, listed: ImageList, dataset: ImageDataset, split: str, places: Sequence[int | None]
    ):
        """Store the images of a split.

        dataset: holds them, perhaps among others. places: index in it of each image of the list;
        None if it is missing.
        """
        self.listed = listed
        self.dataset = dataset
        self.places = places
        self.name, self.split = dataset.name, split
        self.contract = dataset.contract
        self.class_names = listed.class_names if listed.names else dataset.class_names

    def __len__(self) -> int:
        return len(self.places)

    @property
    def missing(self) -> list[Unreadable]:
        """The images of the list that the dataset does not have."""
        lacking = (i for i, place in enumerate(self.places) if place is None)
        return [Unreadable(i, self.path_of(i), "missing") for i in lacking]

    def identity(self) -> str:
        """Return the identity of the listed images when the list was made."""
        return self.listed.identity

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices` of the list."""
        self.check_indices(indices)
        batch = self.dataset.read([self._place(i) for i in indices])
        labels = self._labels(indices, batch.labels)
        return ImageBatch(batch.images, labels, torch.tensor(indices, dtype=torch.int64))

    def read_whole(self, indices: Sequence[int]) -> WholeImages:
        """Return the images at `indices` of the list before they are resized and cropped."""
        whole = self.dataset.read_whole([self._place(i) for i in indices])
        labels = self.listed.labels
        return (
            whole._replace(labels=torch.tensor([labels[i] for i in indices])) if labels else whole
        )

    def path_of(self, index: int) -> str:
        place = self.places[index]
        return self.listed.names[index] if place is None else self.dataset.path_of(place)

    def header(self, index: int) -> ImageHeader | None:
        return self.dataset.header(self._place(index))

    def file_of(self, index: int) -> Path | None:
        place = self.places[index]
        return None if place is None else self.dataset.file_of(place)

    def _labels(self, indices: Sequence[int], current: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        labels = self.listed.labels
        return torch.tensor([labels[i] for i in indices]) if labels else current

    def _place(self, index: int) -> int:
        place = self.places[index]
        if place is None:
            name = self.listed.names[index]
            raise ImageError(
                f"{name}: was among the run's images, and is missing in {self.name}; put it back",
                name,
                "missing",
            )
        return place
