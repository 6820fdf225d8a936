"""Handwritten digits that come with the package, so that no download is needed to try it."""

from importlib import resources

import numpy as np
import torch

from imagetok.data.base import ArrayImages
from imagetok.data.preprocessing import preprocess_batch
from imagetok.images import ImageContract
from imagetok.seeding import generator

NUM_TEST = 180
_LEVELS = 16  # stored pixels are counts of dark pixels in 4 x 4 blocks: 0..16


def open_digits(split: str, contract: ImageContract) -> ArrayImages:
    """Open the digits, scaled to 0..255 and resized to the contract.

    split: train (1,617 images), test (180), or all (in file order).
    """
    file = resources.files("imagetok.data") / "resources" / "digits.npz"
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    # The split does not depend on the run's seed, so that results of all runs are comparable.
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
