"""Augmented images: what is drawn is told by (seed, epoch, index), and applied to the pixels."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from imagetok import seeding
from imagetok.config import validate
from imagetok.data import (
    ArrayImages,
    FolderConfig,
    MasksConfig,
    ShapesConfig,
    open_images,
    preprocess,
)
from imagetok.data.augmentation import NUM_DRAWS, AugmentConfig, draw_parameters
from imagetok.data.augmented_images import AugmentedImages, augment, larger, open_augmented
from imagetok.data.colours import change_colours
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.training.batch_order import MicroBatches, batch_loader

RGB = ImageContract(height=8, width=8)
EVERYTHING = AugmentConfig.model_validate(
    {
        "horizontal_flip": True,
        "random_resized_crop": {"scale": (0.2, 1.0)},
        "colour_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    }
)
FLIP = AugmentConfig(horizontal_flip=True)


def config(**keys: object) -> AugmentConfig:
    return validate(keys, AugmentConfig, "test")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=seeding.generator(seed), dtype=torch.uint8)


def arrays(images: torch.Tensor, how: AugmentConfig, image: ImageContract) -> AugmentedImages:
    contract = image.of_size(images.shape[2], images.shape[3])
    source = ArrayImages(images, name="noise", split="train", contract=contract)
    return AugmentedImages(source, how, image, seed=5)


def drawn(seed: int, index: int, epoch: int) -> np.ndarray:
    """The numbers of an image in an epoch, by numpy alone."""
    key = seeding.derive_seed(seed, "augmentation")
    philox = np.random.Philox(key=key, counter=[0, index, epoch, 0])
    return np.random.Generator(philox).random(NUM_DRAWS)


def test_flips_and_crops_are_those_of_the_seed_the_epoch_and_the_index():
    pictures = noise(6, 3, 12, 12)
    dataset = arrays(pictures, config(horizontal_flip=True, random_crop={"side": 12}), RGB)
    indices, epochs = [4, 0, 4, 5, 4], [0, 0, 1, 7, 2**40]
    found = dataset.read_at(indices, epochs)
    assert found.indices.tolist() == indices
    flips = []
    for image, index, epoch in zip(found.images, indices, epochs, strict=True):
        flip, top, left = drawn(5, index, epoch)[:3]
        top, left = math.floor(top * 5), math.floor(left * 5)
        crop = pictures[index, :, top : top + 8, left : left + 8]
        flips.append(flip < 0.5)
        assert torch.equal(image, crop.flip(-1) if flip < 0.5 else crop)
    assert len(set(flips)) == 2


def test_an_image_does_not_depend_on_its_batch():
    dataset = arrays(noise(6, 3, 8, 8), EVERYTHING, RGB)
    together = dataset.read_at([3, 1, 3, 5], [2, 0, 1, 2]).images
    alone = [dataset.read_at([i], [e]).images[0] for i, e in [(3, 2), (1, 0), (3, 1), (5, 2)]]
    assert torch.equal(together, torch.stack(alone))
    assert not torch.equal(together[0], together[2])


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    height=integers(1, 300),
    width=integers(1, 300),
    low=floats(0.01, 1),
    ratio=floats(0.1, 10),
    index=integers(0, 2**40),
)
def test_a_random_box_lies_in_the_picture_and_has_an_allowed_shape(
    height, width, low, ratio, index
):
    how = config(random_resized_crop={"scale": [low, 1], "ratio": [ratio, 1.5 * ratio]})
    boxes = draw_parameters(how, RGB, [(height, width)], 0, [index], [0]).boxes
    top, left, h, w = boxes[0].tolist()
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width
    assert h >= 1 and w >= 1
    # Sides are rounded to pixels.
    assert (w + 0.5) / max(h - 0.5, 0.5) >= ratio or h == height or w == width
    assert max(w - 0.5, 0.5) / (h + 0.5) <= 1.5 * ratio or h == height or w == width


def test_boxes_reach_every_part_of_the_picture_evenly():
    how = config(random_resized_crop={"scale": [0.25, 0.25], "ratio": [1, 1]})
    count = 4000
    boxes = draw_parameters(how, RGB, [(20, 30)] * count, 1, range(count), [0] * count).boxes
    assert set(map(tuple, boxes[:, 2:].tolist())) == {(12, 12)}  # a quarter of 20 x 30 pixels
    for start, places in ((boxes[:, 0], 9), (boxes[:, 1], 19)):
        counts = np.bincount(start, minlength=places)
        assert len(counts) == places
        assert abs(counts - count / places).max() < 6 * math.sqrt(count / places)


def test_a_box_of_the_whole_picture_is_its_resizing():
    picture = noise(1, 3, 30, 20)
    how = config(random_resized_crop={"scale": [1, 1], "ratio": [20 / 30, 20 / 30]})
    found = arrays(picture, how, RGB).read_at([0], [3]).images[0]
    stretched = RGB.model_copy(update={"resize": "stretch"})
    expected = preprocess(picture[0].movedim(0, -1).numpy(), stretched)
    assert int((found.int() - expected.int()).abs().max()) <= 1


def test_colours_change_by_the_drawn_factors_in_the_drawn_order():
    pictures = noise(1, 3, 8, 8)
    how = config(colour_jitter={"brightness": 0.5, "contrast": 0.4, "hue": 0.2})
    for epoch in range(6):
        found = arrays(pictures, how, RGB).read_at([0], [epoch]).images[0]
        numbers = drawn(5, 0, epoch)
        factors = [0.5 + numbers[3], 0.6 + 0.8 * numbers[4], 1.0, -0.2 + 0.4 * numbers[6]]
        expected = pictures[0]
        changes = [
            transforms.adjust_brightness,
            transforms.adjust_contrast,
            None,
            transforms.adjust_hue,
        ]
        for i in sorted(range(4), key=lambda i: numbers[7 + i]):
            change = changes[i]
            expected = expected if change is None else change(expected, float(factors[i]))
        # One change may be off by one grey level, which the next ones may enlarge.
        assert int((found.int() - expected.int()).abs().max()) <= 4


TORCHVISION = {
    "brightness": transforms.adjust_brightness,
    "contrast": transforms.adjust_contrast,
    "saturation": transforms.adjust_saturation,
    "hue": transforms.adjust_hue,
}


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_of_a_batch_is_torchvisions_for_each_image(name, channels):
    if channels == 1 and name == "hue":
        pytest.skip("grey images have none")
    pictures = noise(40, channels, 90, 100)  # in several pieces
    number = list(TORCHVISION).index(name)
    factors = np.random.default_rng(0).uniform(*((-0.5, 0.5) if name == "hue" else (0, 2)), (40, 4))
    orders = np.tile(np.arange(4), (40, 1))
    found = change_colours(pictures, factors, orders, [number])
    pairs = zip(pictures, factors[:, number].tolist(), strict=True)
    expected = torch.stack([TORCHVISION[name](image, factor) for image, factor in pairs])
    assert int((found.int() - expected.int()).abs().max()) <= 1
    alone = change_colours(pictures[7:8], factors[7:8], orders[7:8], [number])
    assert torch.equal(alone[0], found[7])


@pytest.mark.parametrize("side", [12, 8])
def test_a_batch_of_one_size_is_cropped_as_each_image_alone(side):
    pictures, how = (
        noise(30, 3, side, side),
        config(random_crop={"side": side}, horizontal_flip=True),
    )
    drawn_once = draw_parameters(how, RGB, [(side, side)] * 30, 5, range(30), [3] * 30)
    together = augment(pictures, drawn_once, how, RGB)
    for picture, box, flip, found in zip(
        pictures, drawn_once.boxes.tolist(), drawn_once.flips, together, strict=True
    ):
        crop = transforms.crop(picture, *box)
        assert torch.equal(found, transforms.horizontal_flip(crop) if flip else crop)
    assert torch.equal(together, augment(tuple(pictures), drawn_once, how, RGB))


def test_a_label_map_gets_the_crop_and_the_flip_of_its_image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i in range(6):
        values = noise(11, 17, seed=i).numpy() % 5
        Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(values).save(tmp_path / "masks" / f"{i}.png")
    data = MasksConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    crop = {"horizontal_flip": True, "random_resized_crop": {"scale": [0.3, 1]}}
    nearest = RGB.model_copy(update={"interpolation": "nearest"})
    labels = ImageContract(mode="labels", height=8, width=8, interpolation="nearest", num_classes=5)
    images = open_augmented(data, config(**crop), nearest, 9)
    masks = open_augmented(data, config(**crop), labels, 9)
    chosen = list(range(len(images))) * 3
    epochs = [i // len(images) for i in range(len(chosen))]
    found = masks.read_at(chosen, epochs).images
    assert torch.equal(found, images.read_at(chosen, epochs).images[:, :1])
    assert len({image.numpy().tobytes() for image in found}) > 10
    with_colour = config(**crop, colour_jitter={"brightness": 0.9})
    arguments = labels, [(11, 17)] * len(chosen), 9, chosen, epochs
    plain, coloured = (draw_parameters(how, *arguments) for how in (config(**crop), with_colour))
    assert np.array_equal(plain.boxes, coloured.boxes)
    assert np.array_equal(plain.flips, coloured.flips)


def photo(folder: Path) -> Path:
    """A picture of 12 x 40 pixels whose columns tell their place."""
    columns = np.tile(np.arange(40, dtype=np.uint8) * 6, (12, 1))
    Image.fromarray(np.stack([columns] * 3, axis=-1)).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize(
    "how",
    [{"random_crop": {"side": 12}}, {"random_resized_crop": {"scale": [0.1, 0.4]}}],
    ids=["random_crop", "random_resized_crop"],
)
def test_crops_of_a_file_reach_both_ends_of_a_long_picture(tmp_path, how):
    source = open_images(FolderConfig(root=str(photo(tmp_path))), "all", larger(config(**how), RGB))
    dataset = AugmentedImages(source, config(**how), RGB, seed=0)
    found = dataset.read_at([0] * 200, list(range(200))).images
    assert found.shape == (200, 3, 8, 8)
    assert found.min() <= 6 and found.max() >= 38 * 6


def test_a_picture_is_resized_to_the_side_before_the_crop(tmp_path):
    how = config(random_crop={"side": 24})
    source = open_images(FolderConfig(root=str(photo(tmp_path))), "all", larger(how, RGB))
    found = AugmentedImages(source, how, RGB, seed=0).read_at([0], [0]).images[0]
    _, top, left = drawn(0, 0, 0)[:3]
    top, left = math.floor(top * (24 - 7)), math.floor(left * (80 - 7))
    whole = Image.open(tmp_path / "photo.png").resize((80, 24), Image.Resampling.BILINEAR)
    crop = whole.crop((left, top, left + 8, top + 8))
    assert torch.equal(found, transforms.pil_to_tensor(crop))


def test_sources_without_files_are_cropped_from_images_of_the_side():
    data, how = ShapesConfig(count=20), config(random_crop={"side": 12})
    pictures = open_images(data, "train", RGB.of_size(12, 12))
    dataset = open_augmented(data, how, RGB, 5)
    found = dataset.read_at([7], [2])
    _, top, left = drawn(5, 7, 2)[:3]
    top, left = math.floor(top * 5), math.floor(left * 5)
    assert torch.equal(found.images[0], pictures[7].images[:, top : top + 8, left : left + 8])
    assert found.labels.tolist() == [pictures[7].labels]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_read_the_halves_of_the_batch_of_one(workers):
    dataset = open_augmented(ShapesConfig(count=14), EVERYTHING, RGB, 3)

    def batches(**place: int) -> list[torch.Tensor]:
        order = MicroBatches(14, 8, seed=3, start_step=1, **place)
        loader = batch_loader(dataset, order, workers, pin_memory=False)
        return [batch.images for batch in islice(loader, 4)]

    halves = [batches(rank=rank, num_processes=2) for rank in (0, 1)]
    for whole, first, second in zip(batches(), *halves, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))


@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({}, "leave augment out"),
        ({"horizontal_flip": 0.3}, "horizontal_flip"),
        ({"random_crop": {"side": 9}, "random_resized_crop": {}}, "found both"),
        ({"random_resized_crop": {"scale": [1, 0.5]}}, r"scale: expected the least value first"),
        ({"random_resized_crop": {"scale": [0, 1]}}, "scale"),
        ({"colour_jitter": {}}, "above 0, found none"),
        ({"colour_jitter": {"hue": 0.6}}, "hue"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys, refusal):
    with pytest.raises(ConfigError, match=refusal):
        config(**keys)


LABELS = {"mode": "labels", "interpolation": "nearest", "num_classes": 3}


@pytest.mark.parametrize(
    ("keys", "image", "refusal"),
    [
        ({"random_crop": {"side": 7}}, {}, r"random_crop\.side: expected at least 8.*found 7"),
        ({"colour_jitter": {"contrast": 0.1}}, LABELS, "label maps.*flips and crops may stay"),
        ({"colour_jitter": {"hue": 0.1}}, {"mode": "grey"}, "grey images"),
    ],
)
def test_what_does_not_suit_the_images_is_refused(keys, image, refusal):
    with pytest.raises(ValueError, match=refusal):
        config(**keys).check_images(ImageContract(height=8, width=8, **image))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_flips_and_crops_and_almost_the_same_colours():
    pictures = [noise(3, 40, 40, seed=i) for i in range(16)]
    sizes, indices = [(40, 40)] * 16, range(16)

    def gap(how: AugmentConfig) -> int:
        drawn_once = draw_parameters(how, RGB, sizes, 0, indices, [0] * 16)
        here = augment(pictures, drawn_once, how, RGB)
        there = augment([p.cuda() for p in pictures], drawn_once, how, RGB)
        return int((here.int() - there.cpu().int()).abs().max())

    assert gap(config(horizontal_flip=True, random_crop={"side": 40})) == 0
    assert gap(config(random_resized_crop={})) <= 1
    assert gap(config(random_crop={"side": 40}, colour_jitter={"brightness": 0.5})) <= 1
