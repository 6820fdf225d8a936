"""Training images as they are in each epoch: read larger where needed, and changed at random."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from imagetok.data import DataConfig, open_images
from imagetok.data.augmentation import AugmentConfig, Parameters, draw_parameters
from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.data.preprocessing import resize_to_cover
from imagetok.images import ImageContract

_INTERPOLATION = {
    "nearest": InterpolationMode.NEAREST_EXACT,  # as PIL's; NEAREST is off by half a pixel
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
_CHANGES = (
    transforms.adjust_brightness,
    transforms.adjust_contrast,
    transforms.adjust_saturation,
    transforms.adjust_hue,
)
"""Changes of colour, in the order of the columns of `Parameters.factors`."""
Pictures = UInt8[Tensor, "B C H W"] | Sequence[UInt8[Tensor, "C _h _w"]]


def augment(
    pictures: Pictures, parameters: Parameters, config: AugmentConfig, image: ImageContract
) -> UInt8[Tensor, "B C h w"]:
    """Crop, flip and recolour pictures, on their device.

    image: the contract of the result. Flips, and crops that need no resizing, are the same on every
    device; other values may differ by a grey level.
    """
    crops = pictures if isinstance(pictures, Tensor) else _crops(pictures, parameters, image)
    images = crops.clone()
    flips = torch.from_numpy(parameters.flips).to(images.device)
    images[flips] = transforms.horizontal_flip(images[flips])
    if config.colour_jitter is not None:
        used = {i for i, strength in enumerate(config.colour_jitter.strengths) if strength}
        for row, changed in enumerate(images):
            for i in parameters.orders[row].tolist():
                if i in used:
                    changed = _CHANGES[i](changed, float(parameters.factors[row, i]))
            images[row] = changed
    return images


def _crops(
    pictures: Sequence[Tensor], parameters: Parameters, image: ImageContract
) -> UInt8[Tensor, "B C h w"]:
    size = [image.height, image.width]
    interpolation = _INTERPOLATION[image.interpolation]
    crops = []
    for picture, (top, left, *part) in zip(pictures, parameters.boxes.tolist(), strict=True):
        crop = transforms.crop(picture, top, left, part[0], part[1])
        is_fitting = part == size
        crops.append(crop if is_fitting else transforms.resize(crop, size, interpolation))
    return torch.stack(crops)


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
        if self.config.is_cropped:
            whole, labels = self.pictures.read_whole(indices)
            pictures: Pictures = [self._resized(picture) for picture in whole]
        else:
            pictures, labels, _ = self.pictures.read(indices)
        sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        parameters = draw_parameters(self.config, self.image, sizes, self.seed, indices, epochs)
        images = augment(pictures, parameters, self.config, self.image)
        return ImageBatch(images, labels, torch.tensor(indices))

    def _resized(self, picture: UInt8[Tensor, "C H W"]) -> UInt8[Tensor, "C _h _w"]:
        if self.config.side is None:
            return picture
        return resize_to_cover(picture, self.pictures.contract)


def larger(config: AugmentConfig, image: ImageContract) -> ImageContract:
    """Return the contract of the pictures that are cropped at random."""
    return image if config.side is None else image.with_shorter_side(config.side)


def open_augmented(
    data: DataConfig, config: AugmentConfig, image: ImageContract, seed: int
) -> AugmentedImages:
    """Open the split `train` of a source with augmentation; raises what `open_images` raises."""
    pictures = open_images(data, "train", larger(config, image))
    return AugmentedImages(pictures, config, image, seed)
