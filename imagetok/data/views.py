"""Views of an image for priors: the image and its mirror image, or ten crops."""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor

from imagetok.data.base import ImageBatch, ImageDataset
from imagetok.errors import ConfigError
from imagetok.images import ImageContract

VIEWS = (1, 2, 10)
"""Numbers of views of an image: itself, with its mirror image, or ten crops."""
CROP_RANGE = 1.1
"""How much larger than the tokenizer's images the picture is that ten crops are cut from."""

MAX_CROP_RANGE = 4


def check_views(views: int, crop_range: float | None, image: ImageContract) -> float:
    """Return the crop range of a number of views; raise ConfigError if they cannot be made.

    crop_range: None for the default of this number.
    """
    if views not in VIEWS:
        raise ConfigError(
            f"views: expected 1, 2 (the image and its mirror image) or 10 (the middle, the four "
            f"corners, and their mirror images), found {views}"
        )
    if views < 10:
        if crop_range not in (None, 1.0):
            raise ConfigError(
                f"crop_range: expected none with {views} views, which are whole images, found "
                f"{crop_range:g}; leave it out, or ask for 10 views"
            )
        return 1.0
    found = CROP_RANGE if crop_range is None else crop_range
    if not 1 < found <= MAX_CROP_RANGE:
        raise ConfigError(
            f"crop_range: expected a number above 1, at most {MAX_CROP_RANGE}, found {found:g}"
        )
    picture = picture_contract(image, found)
    if picture == image:
        smallest = 1 + 1 / min(image.height, image.width)
        raise ConfigError(
            f"crop_range: expected at least {smallest:.3g} for images of {image.width} x "
            f"{image.height} pixels, found {found:g}, with which all crops are equal; raise it "
            "(--crop-range)"
        )
    return found


def picture_contract(image: ImageContract, crop_range: float) -> ImageContract:
    """Return the contract of the pictures that views are cut from."""
    return image.of_size(int(image.height * crop_range), int(image.width * crop_range))


def views_of(pictures: ImageDataset, views: int, image: ImageContract) -> ImageDataset:
    """Return the views of all images as a dataset; for one view, the dataset itself.

    pictures: opened with `picture_contract`. image: the contract of the views.
    """
    return pictures if views == 1 else ImageViews(pictures, views, image)


@final
class ImageViews(ImageDataset):
    """All views of all images as images of their own: index = image x views + view.

    Of n views, the first half are crops and the second half, in the same order, their mirror
    images. View 0 is the middle; with ten views 1 to 4 are the corners: top left, top right, bottom
    left, bottom right.
    """

    def __init__(self, pictures: ImageDataset, views: int, image: ImageContract):
        """Wrap a dataset; see `views_of`."""
        self.pictures = pictures
        self.views = views
        self.contract = image
        self.name, self.split = pictures.name, pictures.split
        self.class_names = pictures.class_names
        self.is_decoded_when_read = pictures.is_decoded_when_read

    def __len__(self) -> int:
        return len(self.pictures) * self.views

    def identity(self) -> str:
        """Return the identity of the images."""
        return self.pictures.identity()

    def sample(self, count: int = 8) -> str:
        """Return a hash of some images."""
        return self.pictures.sample(count)

    def path_of(self, index: int) -> str:
        """Return the path of the image that a view is of."""
        return self.pictures.path_of(index // self.views)

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the views at `indices`; each image that occurs is read once."""
        self.check_indices(indices)
        images = list(dict.fromkeys(index // self.views for index in indices))
        batch = self.pictures.read(images)
        row_of = {image: row for row, image in enumerate(images)}
        rows = [row_of[index // self.views] for index in indices]
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        found = torch.empty(shape, dtype=torch.uint8)
        for place, (row, index) in enumerate(zip(rows, indices, strict=True)):
            found[place] = self._view(batch.images[row], index % self.views)
        return ImageBatch(found, batch.labels[rows], torch.tensor(indices, dtype=torch.int64))

    def _view(self, picture: UInt8[Tensor, "C H W"], view: int) -> UInt8[Tensor, "C h w"]:
        mirrored, corner = divmod(view, self.views // 2)
        height, width = self.contract.height, self.contract.width
        down, right = picture.shape[1] - height, picture.shape[2] - width
        places = ((round(down / 2), round(right / 2)), (0, 0), (0, right), (down, 0), (down, right))
        top, left = places[corner]
        crop = picture[:, top : top + height, left : left + width]
        return crop.flip(-1) if mirrored else crop
