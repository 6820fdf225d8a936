"""A data source: colour gradients, of as many directions as there are classes."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

import imagetok
from imagetok.config import Size
from imagetok.data import DataSection, ImageBatch, ImageDataset, preprocess_batch
from imagetok.images import ImageContract


class GradientsConfig(DataSection):
    """Gradients from black to white, in four directions."""

    source: Literal["gradients"] = "gradients"
    count: Size = 64
    """Images of split train; test has half as many."""


@imagetok.register(GradientsConfig)
class Gradients(ImageDataset):
    """Image i rises in direction i % 4, from a level that i says."""

    def __init__(self, config: GradientsConfig, split: str, contract: ImageContract):
        self.name, self.split, self.contract = "gradients", split, contract
        self.class_names = ("right", "down", "left", "up")
        train, test = range(config.count), range(config.count, config.count * 3 // 2)
        self.places = {"train": train, "test": test, "all": range(test.stop)}[split]

    def __len__(self) -> int:
        return len(self.places)

    def identity(self) -> str:
        return f"gradients/1/{self.places.start}-{self.places.stop}"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        self.check_indices(indices)
        places = [self.places[i] for i in indices]
        pixels = np.stack([self._draw(place) for place in places])
        labels = torch.tensor([place % 4 for place in places])
        return ImageBatch(preprocess_batch(pixels, self.contract), labels, torch.tensor(indices))

    def _draw(self, place: int) -> np.ndarray:
        angle = math.pi / 2 * (place % 4)
        ramp = np.linspace(-1, 1, 8)
        along = math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None]
        return (127 + 100 * along + place % 28).astype(np.uint8)
