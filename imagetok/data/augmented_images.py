"""Training images as they are in each epoch: read larger where needed, and changed at random."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from imagetok.data import DataConfig, open_images
from imagetok.data.augmentation import AugmentConfig, Parameters, draw_parameters
from imagetok.data.base import ImageBatch, ImageDataset, Pictures, WholeImages
from imagetok.data.colours import change_colours
from imagetok.data.preprocessing import resize_to_cover
from imagetok.images import ImageContract
from imagetok.processes import without_waiting

_INTERPOLATION = {
    "nearest": InterpolationMode.NEAREST_EXACT,  # as PIL's; NEAREST is off by half a pixel
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}


def augment(
    pictures: Pictures, parameters: Parameters, config: AugmentConfig, image: ImageContract
) -> UInt8[Tensor, "B C h w"]:
    """Crop, flip and recolour pictures, on their device.

    image: the contract of the result. Flips, and crops that need no resizing, are the same on every
    device; other values may differ by a grey level.
    """
    images = _crops(pictures, parameters, image) if config.is_cropped else _batch(pictures)
    if config.horizontal_flip:
        images = _flipped(images, parameters.flips)
    if config.colour_jitter is None:
        return images
    used = [i for i, strength in enumerate(config.colour_jitter.strengths) if strength]
    return change_colours(images, parameters.factors, parameters.orders, used)


def _batch(pictures: Pictures) -> UInt8[Tensor, "B C h w"]:
    return pictures if isinstance(pictures, Tensor) else torch.stack(tuple(pictures))


def _crops(
    pictures: Pictures, parameters: Parameters, image: ImageContract
) -> UInt8[Tensor, "B C h w"]:
    size = [image.height, image.width]
    boxes = parameters.boxes
    if isinstance(pictures, Tensor) and (boxes[:, 2:] == size).all():
        return _parts(pictures, boxes[:, :2], size)
    interpolation = _INTERPOLATION[image.interpolation]
    crops = []
    for picture, (top, left, *part) in zip(pictures, boxes.tolist(), strict=True):
        crop = transforms.crop(picture, top, left, part[0], part[1])
        crops.append(crop if part == size else transforms.resize(crop, size, interpolation))
    return torch.stack(crops)


def _parts(
    pictures: UInt8[Tensor, "B C H W"], corners: Int64[np.ndarray, "B 2"], size: Sequence[int]
) -> UInt8[Tensor, "B C h w"]:
    """Cut a part of one size out of each picture, all at once."""
    if pictures.device.type == "cpu":  # a view of all parts is faster than an index of each pixel
        parts = sliding_window_view(pictures.numpy(), size, axis=(2, 3))
        return torch.from_numpy(parts[np.arange(len(corners)), :, corners[:, 0], corners[:, 1]])
    return _gathered(pictures, corners, size)


def _gathered(
    pictures: UInt8[Tensor, "B C H W"], corners: Int64[np.ndarray, "B 2"], size: Sequence[int]
) -> UInt8[Tensor, "B C h w"]:
    channels = torch.arange(pictures.shape[1], device=pictures.device)[:, None, None]
    each = torch.arange(len(corners), device=pictures.device)[:, None, None, None]
    starts = without_waiting(torch.from_numpy(corners), pictures.device)
    rows, columns = (
        starts[:, axis, None] + torch.arange(size[axis], device=pictures.device) for axis in (0, 1)
    )
    return pictures[each, channels, rows[:, None, :, None], columns[:, None, None, :]]


def _flipped(
    images: UInt8[Tensor, "B C h w"], flips: Bool[np.ndarray, " B"]
) -> UInt8[Tensor, "B C h w"]:
    """Mirror some images, in a new batch; to write into the old one would take twice as long."""
    rows = np.arange(len(flips))
    places = np.where(flips, len(flips) + flips.cumsum() - 1, rows)
    chosen, places = (
        without_waiting(torch.from_numpy(n), images.device) for n in (rows[flips], places)
    )
    mirrored = images.index_select(0, chosen).flip(-1)  # faster than an index in brackets
    return torch.cat([images, mirrored]).index_select(0, places)


@final
class AugmentedImages:
    """A source of images whose images are read as they are in an epoch; see `AugmentConfig`."""

    def __init__(
        self, pictures: ImageDataset, config: AugmentConfig, image: ImageContract, seed: int
    ):
        """Wrap the images before augmentation.

        pictures: opened with the contract of `larger`. image: the contract of the result.
        """
        self.pictures = pictures
        self.config = config
        self.image = image
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pictures)

    def identity(self) -> str:
        """Return the identity of the images before augmentation."""
        return self.pictures.identity()

    def path_of(self, index: int) -> str:
        """Return the path of an image for messages."""
        return self.pictures.path_of(index)

    def sample(self) -> str:
        """Return a hash of some images before augmentation."""
        return self.pictures.sample()

    def read_at(self, indices: list[int], epochs: list[int]) -> ImageBatch:
        """Return images as they are in `epochs`, one epoch each.

        Raises ImageError for the first that cannot be read.
        """
        return self.changed(self.read_before(indices), indices, epochs)

    def read_before(self, indices: Sequence[int]) -> WholeImages:
        """Return images before augmentation; raises ImageError for the first unreadable one."""
        if not self.config.is_cropped:
            images, labels, _ = self.pictures.read(indices)
            return WholeImages(images, labels)
        whole = self.pictures.read_whole(indices)
        return WholeImages(self._resized(whole.images), whole.labels)

    def changed(
        self, before: WholeImages, indices: Sequence[int], epochs: Sequence[int]
    ) -> ImageBatch:
        """Augment what `read_before` returned, on its device."""
        pictures, labels = before
        if isinstance(pictures, Tensor):
            sizes = [(pictures.shape[2], pictures.shape[3])] * len(indices)
        else:
            sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        parameters = draw_parameters(self.config, self.image, sizes, self.seed, indices, epochs)
        images = augment(pictures, parameters, self.config, self.image)
        return ImageBatch(images, labels, without_waiting(torch.tensor(indices), labels.device))

    def _resized(self, pictures: Pictures) -> Pictures:
        """Resize pictures of other sizes than the contract's, if they are to be resized."""
        contract = self.pictures.contract
        size = (contract.height, contract.width)
        is_resized = isinstance(pictures, Tensor) and tuple(pictures.shape[2:]) == size
        if self.config.side is None or is_resized:
            return pictures
        return [resize_to_cover(picture, contract) for picture in pictures]


def larger(config: AugmentConfig, image: ImageContract) -> ImageContract:
    """Return the contract of the pictures that are cropped at random."""
    return image if config.side is None else image.with_shorter_side(config.side)


def open_augmented(
    data: DataConfig, config: AugmentConfig, image: ImageContract, seed: int
) -> AugmentedImages:
    """Open the split `train` of a source with augmentation; raises what `open_images` raises."""
    pictures = open_images(data, "train", larger(config, image))
    return AugmentedImages(pictures, config, image, seed)
