"""Noise in place of images that do not exist yet, to measure the time of a run's steps."""

import torch

from imagetok.data.base import NO_LABEL, ImageBatch
from imagetok.images import ImageContract

COUNT = 4096
"""Number of examples that a stand-in claims to have."""


class NoiseImages:
    """Noise of the form of a contract; every batch of one length is the same."""

    def __init__(self, image: ImageContract):
        self._image = image

    def __len__(self) -> int:
        return COUNT

    def identity(self) -> str:
        """Return a name, since nothing that is kept was trained on it."""
        return "noise"

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """Return as many images as indices."""
        image = self._image
        pixels = torch.randint(
            image.num_classes or 256,
            (len(indices), image.channels, image.height, image.width),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.uint8,
        )
        labels = torch.full((len(indices),), NO_LABEL)
        return ImageBatch(pixels, labels, torch.tensor(indices))
