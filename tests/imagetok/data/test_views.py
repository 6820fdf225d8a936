"""Views of an image: torchvision's ten crops, and the mirror image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from imagetok import seeding
from imagetok.data.base import ArrayImages
from imagetok.data.views import ImageViews, check_views, picture_contract, views_of
from imagetok.errors import ConfigError
from imagetok.images import ImageContract

IMAGE = ImageContract(height=8, width=10)


def pictures(height: int, width: int, count: int = 4) -> ArrayImages:
    draw = seeding.generator(3)
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=draw, dtype=torch.uint8)
    form = IMAGE.of_size(height, width)
    labels = torch.arange(count) % 2
    return ArrayImages(
        pixels, labels, name="noise", split="all", contract=form, class_names=("a", "b")
    )


@pytest.mark.parametrize(("height", "width"), [(12, 15), (9, 11), (11, 12)])
def test_ten_views_are_torchvisions_ten_crops_with_the_middle_first(height, width):
    source = pictures(height, width)
    views = ImageViews(source, 10, IMAGE)
    crops = torch.stack(transforms.ten_crop(source.images, [8, 10]), dim=1)
    batch = views.read(range(40))
    # torchvision flips first, so its mirrored left corners are the mirror images of the right ones;
    # its mirrored middle is a pixel beside ours where the margin is odd.
    order = [4, 0, 1, 2, 3, 9, 6, 5, 8, 7]
    found, expected = batch.images.unflatten(0, (4, 10)), crops[:, order]
    same = [v for v in range(10) if v != 5 or (width - 10) % 2 == 0]
    assert torch.equal(found[:, same], expected[:, same])
    assert torch.equal(found[:, 5:], found[:, :5].flip(-1))
    assert batch.indices.tolist() == list(range(40)) and len(views) == 40
    assert batch.labels.tolist() == [i // 10 % 2 for i in range(40)]


def test_two_views_are_the_image_and_its_mirror_image():
    source = pictures(8, 10)
    batch = ImageViews(source, 2, IMAGE).read([5, 0, 4, 5])
    expected = [source.images[2].flip(-1), source.images[0], source.images[2]]
    assert torch.equal(batch.images, torch.stack([*expected, expected[0]]))
    assert views_of(source, 1, IMAGE) is source


def test_each_image_of_a_batch_is_read_once():
    source, asked = pictures(12, 15), []
    read = source.read
    source.read = lambda indices: asked.append(list(indices)) or read(indices)
    ImageViews(source, 10, IMAGE).read([*range(7, 23), 3])
    assert asked == [[0, 1, 2]]


def test_the_picture_of_ten_crops_is_larger_by_the_crop_range():
    assert check_views(1, None, IMAGE) == check_views(2, None, IMAGE) == 1.0
    assert picture_contract(IMAGE, 1.0) == IMAGE
    square = ImageContract(height=256, width=256, resize="adm", interpolation="bicubic")
    found = picture_contract(square, check_views(10, None, square))
    assert (found.height, found.width, found.resize) == (281, 281, "adm")


@pytest.mark.parametrize(
    ("views", "crop_range", "refusal"),
    [
        (3, None, "views: expected 1, 2 .* or 10 .*found 3"),
        (0, None, "found 0"),
        (2, 1.1, "crop_range: expected none with 2 views.*found 1.1"),
        (10, 1.0, "above 1, at most 4, found 1"),
        (10, 5.0, "found 5"),
        (10, 1.05, r"at least 1\.12 for images of 10 x 8 pixels, found 1\.05, with which all"),
    ],
)
def test_views_that_cannot_be_meant_are_refused(views, crop_range, refusal):
    with pytest.raises(ConfigError, match=refusal):
        check_views(views, crop_range, IMAGE)
