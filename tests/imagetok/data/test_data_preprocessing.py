"""One transform: torchvision's numbers, and the same from a file, an array or a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from
from PIL import Image
from torchvision.transforms.v2 import functional

from imagetok.data import preprocess, preprocess_batch
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.seeding import generator

MODES = {
    "nearest": functional.InterpolationMode.NEAREST,
    "bilinear": functional.InterpolationMode.BILINEAR,
    "bicubic": functional.InterpolationMode.BICUBIC,
}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return torch.randint(0, 256, shape, generator=generator(seed), dtype=torch.uint8).numpy()


def gap(ours: torch.Tensor, theirs: Image.Image) -> int:
    return int((ours.int() - functional.pil_to_tensor(theirs).int()).abs().max())


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    width=integers(1, 90),
    height=integers(1, 90),
    size=integers(1, 40),
    interpolation=sampled_from(["bilinear", "bicubic"]),
)
def test_cover_is_torchvisions_resize_then_centre_crop(width, height, size, interpolation):
    picture = Image.fromarray(noise(height, width, 3))
    contract = ImageContract(height=size, width=size, interpolation=interpolation)
    resized = functional.resize(picture, [size], MODES[interpolation])
    assert gap(preprocess(picture, contract), functional.center_crop(resized, [size, size])) <= 1


@pytest.mark.parametrize("interpolation", MODES)
def test_stretch_is_torchvisions_resize(interpolation):
    picture = Image.fromarray(noise(30, 50, 3))
    contract = ImageContract(
        height=16, width=24, resize="stretch", interpolation=interpolation, mode="grey"
    )
    expected = functional.resize(picture.convert("L"), [16, 24], MODES[interpolation])
    assert gap(preprocess(picture, contract), expected) == 0


def test_the_celeba_recipe_crops_before_it_resizes():
    picture = Image.fromarray(noise(218, 178, 3))
    contract = ImageContract(height=64, width=64, centre_crop=140)
    cropped = picture.crop((19, 39, 159, 179))
    expected = functional.resize(cropped, [64, 64], MODES["bilinear"])
    assert gap(preprocess(picture, contract), expected) == 0


def test_a_crop_larger_than_the_picture_takes_all_of_it():
    pixels = noise(20, 20, 3)
    crop, plain = (ImageContract(height=8, width=8, centre_crop=c) for c in (99, None))
    assert torch.equal(preprocess(pixels, crop), preprocess(pixels, plain))


def test_cover_to_another_aspect_ratio_keeps_the_middle():
    pixels = np.repeat(np.repeat(noise(4, 12, 3), 5, 0), 5, 1)
    contract = ImageContract(height=20, width=40)
    assert np.array_equal(preprocess(pixels, contract).movedim(0, -1).numpy(), pixels[:, 10:50])


def test_a_very_long_picture_makes_no_huge_one():
    contract = ImageContract(height=64, width=64)
    assert preprocess(np.full((1, 60_000, 3), 7, np.uint8), contract).unique().tolist() == [7]


@pytest.mark.parametrize("mode", ["rgb", "grey"])
@pytest.mark.parametrize("trailing", [(), (1,), (3,)])
@pytest.mark.parametrize("crop", [None, 5])
def test_a_batch_is_prepared_like_each_of_its_images(mode, trailing, crop):
    pixels = noise(3, 8, 9, *trailing)
    contract = ImageContract(mode=mode, height=8, width=9, centre_crop=crop)
    batch = preprocess_batch(pixels, contract)
    assert batch.shape == (3, contract.channels, 8, 9)
    assert torch.equal(batch, torch.stack([preprocess(image, contract) for image in pixels]))
    assert batch.is_contiguous()


def test_a_batch_of_another_size_is_resized_and_an_empty_one_stays_empty():
    contract = ImageContract(mode="grey", height=4, width=6)
    batch = preprocess_batch(noise(2, 8, 12), contract)
    assert torch.equal(batch[1], preprocess(noise(2, 8, 12)[1], contract))
    assert preprocess_batch(noise(0, 8, 12), contract).shape == (0, 1, 4, 6)


def test_prepared_pixels_share_no_memory_with_the_source():
    pixels = noise(2, 4, 4, 3)
    before = preprocess_batch(pixels, ImageContract(height=4, width=4))
    after = before.clone()
    pixels[:] = 0
    assert torch.equal(before, after)


def test_pixels_of_another_layout_are_refused_with_the_fix():
    with pytest.raises(InputError, match=r"\(H, W, 3\), found \(3, 8, 8\); .*movedim"):
        preprocess(noise(3, 8, 8), ImageContract(height=8, width=8))


def adm_crop(picture: Image.Image, side: int) -> np.ndarray:
    """The whole image halved, resized and then cropped, as Dhariwal and Nichol (2021) describe."""
    width, height = picture.size
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        picture = picture.resize((width, height), Image.Resampling.BOX)
    scale = side / min(width, height)
    whole = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    return np.array(whole.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize("size", [(31, 17), (70, 33), (16, 16), (9, 12), (33, 131), (64, 64)])
def test_the_adm_crop_is_that_of_the_whole_image(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    contract = ImageContract(height=16, width=16, resize="adm", interpolation="bicubic")
    found = preprocess(pixels, contract).movedim(0, -1).numpy()
    assert np.array_equal(found, adm_crop(Image.fromarray(pixels), 16))


def test_a_very_long_image_is_cropped_without_a_huge_one_in_between():
    pixels = np.full((1, 60_000, 3), 7, dtype=np.uint8)
    contract = ImageContract(height=256, width=256, resize="adm", interpolation="bicubic")
    assert preprocess(pixels, contract).eq(7).all()


@pytest.mark.parametrize("other", [{"interpolation": "bilinear"}, {"width": 15}])
def test_the_adm_crop_is_bicubic_and_square(other):
    tree = {"height": 16, "width": 16, "resize": "adm", "interpolation": "bicubic", **other}
    with pytest.raises(ValueError, match="resize: adm needs"):
        ImageContract.model_validate(tree)
