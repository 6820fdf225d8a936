"""Training images of which the unreadable ones are replaced by others."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, final, runtime_checkable

import torch

from imagetok import seeding
from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.data.image_decoding import ImageError
from imagetok.data.resident import ChangedImages, Resident, make_resident
from imagetok.data.unreadable import Unreadable

_DRAWS = 1000  # then hardly any image is readable


@runtime_checkable
class EpochImages(Protocol):
    """Images that differ from epoch to epoch, as augmented ones do."""

    def __len__(self) -> int: ...

    def identity(self) -> str: ...

    def path_of(self, index: int) -> str: ...

    def read_at(self, indices: list[int], epochs: list[int]) -> ImageBatch: ...


class FilledBatch(NamedTuple):
    """A batch of as many images as were asked for."""

    examples: ImageBatch
    skipped: tuple[Unreadable, ...]
    """Images that are missing from it, because they cannot be read."""


@final
class SubstitutedImages:
    """A dataset that is read by index and epoch, in which a substitute stands for a damaged image.

    The substitute depends only on the seed, the epoch and the index, so it is the same in every
    process and worker and after a resume.
    """

    def __init__(self, dataset: ImageDataset | EpochImages, seed: int):
        self.dataset = dataset
        self.seed = seed

    def kept_on(
        self, device: torch.device, resident: Resident, check: Callable[[], None]
    ) -> "SubstitutedImages | None":
        """Return the same images, kept on a device; None if they are not. See `make_resident`."""
        if not isinstance(self.dataset, ImageDataset | ChangedImages):
            return None
        kept = make_resident(self.dataset, device, resident, check)
        return None if kept is None else SubstitutedImages(kept, self.seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def identity(self) -> str:
        """Return the identity of the dataset."""
        return self.dataset.identity()

    def read_at(self, indices: list[int], epochs: list[int]) -> FilledBatch:
        """Return the images at `indices` as one batch, with substitutes for unreadable ones.

        Raises ImageError if no readable image is found for one of them.
        """
        try:
            return FilledBatch(self._read(indices, epochs), ())
        except ImageError:
            pass
        parts, skipped = [], []
        for index, epoch in zip(indices, epochs, strict=True):
            try:
                parts.append(self._read([index], [epoch]))
            except ImageError as error:
                path = error.path or self.dataset.path_of(index)
                skipped.append(Unreadable(index, path, error.reason))
                parts.append(self._substitute(index, epoch, error))
        batch = ImageBatch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return FilledBatch(batch, tuple(skipped))

    def _read(self, indices: list[int], epochs: list[int]) -> ImageBatch:
        if isinstance(self.dataset, ImageDataset):
            return self.dataset.read(indices)
        return self.dataset.read_at(indices, epochs)

    def _substitute(self, index: int, epoch: int, fault: ImageError) -> ImageBatch:
        draw = seeding.generator(self.seed, "substitute", epoch, index)
        for _ in range(_DRAWS):
            other = int(torch.randint(len(self), (), generator=draw))
            try:
                return self._read([other], [epoch])
            except ImageError:
                continue
        raise ImageError(
            f"{fault}; and none of {_DRAWS:,} other images that were drawn in its place can be "
            "read: mend the images, or train on others",
            fault.path,
        )
