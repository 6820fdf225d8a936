"""The images of a registered data source, with every batch checked against the interface."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset
from imagetok.data.image_decoding import ImageError
from imagetok.data.image_header import ImageHeader
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.suggestions import shown


@final
class CheckedImages(ImageDataset):
    """The dataset of a registered source; a batch that breaks the interface raises InputError.

    Without the checks a batch of the wrong images or labels would give wrong numbers silently.
    """

    def __init__(self, dataset: ImageDataset, what: str, split: str, contract: ImageContract):
        """Wrap `dataset`, whose attributes and length are checked here.

        what: the source, for messages. split, contract: what it was asked for. Raises ConfigError
        for a dataset that breaks the interface, InputError if it is empty.
        """
        self.dataset = dataset
        self.what = what
        self.split = split
        self.contract = contract
        self.name = _text(dataset, "name", what)
        _text(dataset, "split", what)
        self.class_names = _class_names(dataset, what)
        found = getattr(dataset, "contract", None)
        if found != contract:
            raise ConfigError(
                f"{what}: expected images in the form that it is asked for, {contract}, found "
                f"{found}; see imagetok.data.preprocess_batch"
            )
        self._length = _length(dataset, what, split)

    def __len__(self) -> int:
        return self._length

    def identity(self) -> str:
        """Return the identity that the source computes; ConfigError if it is not a text."""
        found: object = self.dataset.identity()
        if not isinstance(found, str) or not found:
            raise ConfigError(
                f"{self.what}: identity: expected a non-empty str, a hash of the images, found "
                f"{shown(found)}"
            )
        return found

    def sample(self, count: int = 8) -> str:
        """Return the hash of some images that the source computes, after a check of the first."""
        with suppress(ImageError):  # a damaged file is part of the hash, a broken source is not
            self.read([0])
        return self.dataset.sample(count)

    def path_of(self, index: int) -> str:
        return self.dataset.path_of(index)

    def header(self, index: int) -> ImageHeader | None:
        return self.dataset.header(index)

    def file_of(self, index: int) -> Path | None:
        return self.dataset.file_of(index)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices`; InputError for a batch that breaks the interface."""
        self.check_indices(indices)
        batch: object = self.dataset.read(indices)
        if not isinstance(batch, ImageBatch):
            raise self._broken("", "an imagetok.data.ImageBatch", type(batch).__qualname__)
        count, form = len(indices), self.contract
        shape = (count, form.channels, form.height, form.width)
        self._check_tensor("images", batch.images, torch.uint8, shape)
        self._check_tensor("labels", batch.labels, torch.int64, (count,))
        self._check_tensor("indices", batch.indices, torch.int64, (count,))
        if count:
            self._check_values(batch, indices)
        return batch

    def _check_tensor(
        self, name: str, value: object, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        if not isinstance(value, Tensor):
            raise self._broken(name, "a tensor", type(value).__qualname__)
        if (value.dtype, tuple(value.shape)) != (dtype, shape):
            raise self._broken(
                name, f"{dtype} of shape {shape}", f"{value.dtype} of shape {tuple(value.shape)}"
            )

    def _check_values(self, batch: ImageBatch, indices: Sequence[int]) -> None:
        asked, returned = list(indices), batch.indices.tolist()
        if returned != asked:
            at = next(i for i, index in enumerate(asked) if returned[i] != index)
            raise self._broken(
                "indices", f"those that were asked for, {asked[at]} at place {at}", returned[at]
            )
        low, high = int(batch.labels.min()), int(batch.labels.max())
        classes = len(self.class_names)
        if low < NO_LABEL or high >= classes:
            wrong = low if low < NO_LABEL else high
            wanted = f"[0, {classes}), by the number of class_names, or -1 for none"
            raise self._broken("labels", wanted if classes else "-1, without class_names", wrong)
        top = self.contract.num_classes
        if top is None:
            return
        images, ignored = batch.images, self.contract.ignore
        if ignored is not None:
            images = images[images != ignored]
        if images.numel() and int(images.max()) >= top:
            raise self._broken("images", f"classes in [0, {top})", int(images.max()))

    def _broken(self, name: str, expected: str, found: object) -> InputError:
        field = f"read: {name}" if name else "read"
        return InputError(
            f"{self.what}: {self.name}:{self.split}: {field}: expected {expected}, found {found}"
        )


def _text(dataset: ImageDataset, name: str, what: str) -> str:
    found = getattr(dataset, name, None)
    if not isinstance(found, str) or not found:
        raise ConfigError(f"{what}: {name}: expected a non-empty str, found {shown(found)}")
    return found


def _class_names(dataset: ImageDataset, what: str) -> tuple[str, ...]:
    found = getattr(dataset, "class_names", None)
    if not isinstance(found, tuple) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"{what}: class_names: expected a tuple of str, found {shown(found)}")
    if dataset.num_classes != (len(found) or None):
        raise ConfigError(
            f"{what}: num_classes: expected {len(found) or None}, the number of class_names, found "
            f"{shown(dataset.num_classes)}"
        )
    return found


def _length(dataset: ImageDataset, what: str, split: str) -> int:
    try:
        length = len(dataset)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{what}: len: expected an int >= 1, found an error: {error}") from None
    if length == 0:
        raise InputError(f"{what}: expected one image or more in split {split}, found none")
    return length
