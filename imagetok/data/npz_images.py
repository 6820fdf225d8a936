"""Images in one npz file, as `imagetok sample --npz` and ADM's programs write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset
from imagetok.data.preprocessing import preprocess_batch
from imagetok.durable import sha256_file
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.io.json_files import MAX_BYTES, parse_json
from imagetok.io.npz_files import member_of, open_array
from imagetok.suggestions import counted

RECORD = "samples.json"
"""The record of samples, in their folder or npz file."""


@final
class NpzImages(ImageDataset):
    """The images of `arr_0`, (N, H, W, 3) uint8, with the classes of `arr_1`, if there are any.

    The names of the classes are those in the record that `imagetok sample` writes. The images are
    read when they are needed, except from a compressed file. Raises InputError for anything else.
    """

    def __init__(self, path: Path, contract: ImageContract):
        self.path = path
        self.name, self.split = "samples", "all"
        self.contract = contract
        try:
            self.images = open_array(path, "arr_0")
            shape, dtype = self.images.shape, self.images.dtype
            if dtype != np.uint8 or shape[3:] != (3,) or 0 in shape:
                raise ValueError(
                    f"arr_0: expected images of shape (N, H, W, 3), uint8, found {shape}, {dtype}"
                )
            self.labels = _labels(path, len(self.images))
            record = member_of(path, RECORD, MAX_BYTES)
            content = {} if record is None else parse_json(record, f"{path}: {RECORD}")
            self.class_names = class_names_in(content)
        except (KeyError, ValueError, OSError, TypeError) as fault:
            raise InputError(f"{path}: cannot be read as an npz file of images: {fault}") from None

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Return a hash of the file."""
        return sha256_file(self.path)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices`."""
        self.check_indices(indices)
        pixels = np.array(self.images[list(indices)])
        chosen = torch.tensor(indices, dtype=torch.int64)
        return ImageBatch(preprocess_batch(pixels, self.contract), self.labels[chosen], chosen)


def class_names_in(record: Any) -> tuple[str, ...]:
    """Return the class names in a record of samples; empty in those of earlier versions.

    Raises TypeError for anything but a list of names.
    """
    names = record.get("class_names", ()) if isinstance(record, dict) else None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError("expected class_names as text")
    return tuple(names)


def _labels(path: Path, count: int) -> torch.Tensor:
    try:
        classes = open_array(path, "arr_1")
    except KeyError:
        return torch.full((count,), NO_LABEL)
    if classes.shape != (count,) or classes.dtype.kind not in "iu":
        raise ValueError(f"arr_1: expected {counted(count, 'whole number')}, found {classes.shape}")
    return torch.from_numpy(classes.astype(np.int64))
