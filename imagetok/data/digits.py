"""Handwritten digits that come with the package, so that everything runs with no download."""

from importlib import resources

import numpy as np
import torch

from imagetok.data.base import ArrayImages
from imagetok.data.preprocessing import preprocess_batch
from imagetok.images import ImageContract
from imagetok.seeding import generator

NUM_TEST = 180
_LEVELS = 16  # pixels count the dark ones of 4 x 4 cells: 0..16


def open_digits(split: str, contract: ImageContract) -> ArrayImages:
    """The digits scaled to 0..255 and resized: 1,617 train, 180 test, or all in file order."""
    file = resources.files("imagetok.data") / "resources" / "digits.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    # One fixed split, whatever the run's seed: numbers of different runs stay comparable.
    order = torch.randperm(len(values), generator=generator(0, "digits split")).numpy()
    match split:
        case "train":
            chosen = order[NUM_TEST:]
        case "test":
            chosen = order[:NUM_TEST]
        case _:
            chosen = np.arange(len(values))
    pixels = (values[chosen].astype(np.uint16) * 255 + _LEVELS // 2) // _LEVELS
    return ArrayImages(
        preprocess_batch(pixels.astype(np.uint8), contract),
        torch.from_numpy(labels[chosen].astype(np.int64)),
        name="digits",
        split=split,
        contract=contract,
        class_names=tuple(str(digit) for digit in range(10)),
    )
