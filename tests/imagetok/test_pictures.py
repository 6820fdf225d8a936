import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from PIL import Image

from imagetok.errors import ConfigError, InputError
from imagetok.fonts import font, has_letters
from imagetok.pictures import (
    as_pixels,
    class_labels,
    cut_grid,
    drawn_labels,
    enlarged,
    grid,
    heat_map,
    named_grid,
    overlay,
    png_bytes,
    save_grid,
    side_by_side,
)


def numbered(count: int, channels: int = 1, height: int = 2, width: int = 3) -> np.ndarray:
    """Image i is filled with the value i + 1."""
    values = np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(values, (count, channels, height, width))


@given(columns=integers(1, 4), padding=integers(0, 3), scale=integers(1, 3))
def test_a_grid_is_cut_into_its_images(columns, padding, scale):
    for channels in (1, 3):
        images = numbered(2 * columns, channels)
        picture = grid(images, columns, padding)
        size = (picture.width * scale, picture.height * scale)
        pixels = np.array(picture.resize(size, Image.Resampling.NEAREST))
        assert (cut_grid(pixels, 2, 3, padding, scale) == images).all()
        with pytest.raises(InputError, match="expected a grid of images of 3 x 2 pixels"):
            cut_grid(pixels[:-1], 2, 3, padding, scale)


def test_grid_layout_is_exact():
    picture = np.array(grid(numbered(3, height=1, width=2), columns=2, padding=1, background=9))
    assert picture.tolist() == [
        [9, 9, 9, 9, 9, 9, 9],
        [9, 1, 1, 9, 2, 2, 9],
        [9, 9, 9, 9, 9, 9, 9],
        [9, 3, 3, 9, 9, 9, 9],
        [9, 9, 9, 9, 9, 9, 9],
    ]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(count=integers(1, 9), columns=integers(1, 5), padding=integers(0, 3))
def test_every_image_can_be_cut_out_of_its_grid(count: int, columns: int, padding: int):
    images = torch.randint(
        0, 256, (count, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )
    picture = np.array(grid(images, columns, padding))
    for i in range(count):
        top = padding + i // columns * (4 + padding)
        left = padding + i % columns * (5 + padding)
        cut = picture[top : top + 4, left : left + 5].transpose(2, 0, 1)
        assert np.array_equal(cut, images[i].numpy())


@pytest.mark.parametrize("part", ["titles", "names", "row_names"])
def test_a_named_grid_holds_the_same_images_and_ink_for_every_name(part):
    images = np.zeros((4, 1, 32, 32), dtype=np.uint8)
    some = {"titles": ["cat", "dog"], "names": ["cat", "", "dog", ""], "row_names": ["cat", "dog"]}
    without = np.asarray(named_grid(images, 2))
    assert np.array_equal(without, np.asarray(enlarged(grid(images, 2), 2).convert("RGB")))
    named = np.asarray(named_grid(images, 2, **{part: some[part]}))
    assert (named == 0).all(axis=2).sum() == (without == 0).all(axis=2).sum() == 4 * 64 * 64
    fewer = np.asarray(named_grid(images, 2, **{part: ["", *some[part][1:]]}))
    assert (named != 255).sum() > (fewer != 255).sum() > (without != 255).sum()


@pytest.mark.parametrize("groups", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("side", [32, 80])
def test_names_of_any_length_and_gaps_of_groups_hide_no_part_of_an_image(groups, side):
    columns, count, scale = 6, 9, max(1, 64 // side)
    noise = np.random.default_rng(0).integers(0, 255, (count, 1, side, side), dtype=np.uint8)
    titles = ["a name that goes on and on " * 9] * groups
    picture = np.asarray(named_grid(noise, columns, titles=titles).convert("L"))
    gap, group = (8 if 1 < groups < columns else 0), columns // max(1, groups)
    top = picture.shape[0] - (2 * (side + 2) + 2) * scale
    for i, image in enumerate(noise[:, 0]):
        y = top + (2 + i // columns * (side + 2)) * scale
        x = (2 + i % columns * (side + 2)) * scale + i % columns // group * gap
        found = picture[y : y + side * scale : scale, x : x + side * scale : scale]
        assert np.array_equal(found, image)


def test_titles_belong_to_equally_many_columns():
    with pytest.raises(ConfigError, match="a divisor of 3 columns, found 2"):
        named_grid(numbered(3), 3, titles=["cat", "dog"])


def test_a_name_that_is_too_long_stays_above_its_image():
    images = np.full((2, 1, 64, 64), 255, dtype=np.uint8)
    long = "a name of a class that goes on and on"
    ink = np.asarray(named_grid(images, 2, names=[long, ""]).convert("L")) < 255
    assert ink[:, :66].any() and not ink[:, 67:].any()


def test_labels_have_names_numbers_or_nothing():
    assert class_labels([1, 0, -1, 5], ("cat", "dog")) == ["dog", "cat", "", "5"]


def test_a_picture_has_the_names_that_its_font_can_write():
    names = ("chien", "кошка", "γάτα", "ñandú", "猫", "dog 고양이")
    expected = [*names[:4], "class 4", "class 5", "", "9"]
    assert drawn_labels([0, 1, 2, 3, 4, 5, -1, 9], names) == expected


def test_letters_of_other_scripts_are_not_boxes():
    """A letter that a font lacks is drawn as a box, the same one for all of them."""

    def drawn(letter: str) -> bytes:
        return bytes(font(24).getmask(letter))

    box = drawn("\U0010fffd")
    letters = "éñßкшЖγάΩ"
    assert has_letters(letters) and not has_letters("\U0010fffd")
    assert len({drawn(letter) for letter in letters} - {box}) == len(letters)


def test_float_and_uint8_images_give_the_same_picture():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(as_pixels(levels.float() / 255), levels.numpy())
    assert np.array_equal(as_pixels((levels.double() / 255).numpy()), levels.numpy())


def test_a_gradient_or_a_hair_outside_the_range_is_no_obstacle():
    images = torch.tensor([-0.001, 1.001], requires_grad=True).reshape(2, 1, 1, 1)
    assert as_pixels(images).flatten().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"found shape \(3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 3), "channels belong on dim 1"),
        (torch.zeros(0, 3, 4, 4), "at least one pixel"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "found torch.int64"),
        (torch.full((1, 1, 2, 2), 255.0), r"found \[255, 255\]"),
        (torch.full((1, 1, 2, 2), float("nan")), "found NaN"),
        (np.zeros((4, 4)), r"found shape \(4, 4\)"),
    ],
)
def test_what_is_not_a_batch_of_images_is_refused(images, message):
    with pytest.raises(InputError, match=message):
        grid(images, columns=2)


def test_impossible_layouts_are_refused():
    for columns, padding, background in ((0, 2, 0), (1, -1, 0), (1, 0, 256)):
        with pytest.raises(ConfigError, match="columns >= 1"):
            grid(numbered(1), columns, padding, background)


def test_side_by_side_puts_each_row_above_its_reconstructions():
    originals, rebuilt = numbered(3), numbered(3) + 100
    both = side_by_side(originals, rebuilt, columns=2)
    assert both.shape == (8, 1, 2, 3)
    assert both[:, 0, 0, 0].tolist() == [1, 2, 101, 102, 3, 255, 103, 255]
    with pytest.raises(InputError, match="reconstructions of the same shape"):
        side_by_side(originals, rebuilt[:2], columns=2)


def test_heat_grows_lighter_with_the_value():
    values = torch.arange(256).view(1, 16, 16) / 255
    colours = heat_map(torch.cat([values, values.flip(1)]))
    assert (colours.shape, colours.dtype) == ((2, 3, 16, 16), np.uint8)
    assert colours[0, :, 0, 0].tolist() == [0, 0, 0]
    assert colours[0, :, -1, -1].tolist() == [252, 253, 191]
    assert np.array_equal(colours[1], colours[0][:, ::-1])
    lightness = np.tensordot([0.2126, 0.7152, 0.0722], colours[0].reshape(3, 256), 1)  # Rec. 709
    assert (np.diff(lightness) > -0.5).all() and (np.diff(lightness[::16]) > 0).all()
    for wrong in (values[0], values * 2):
        with pytest.raises(InputError):
            heat_map(wrong)


def test_save_grid_scales_without_smoothing_and_repeats_its_bytes(tmp_path):
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    save_grid(images, tmp_path / "a.png", columns=3, scale=4)
    save_grid(images, tmp_path / "b.png", columns=3, scale=4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    saved = np.array(Image.open(tmp_path / "a.png"))
    plain = np.array(grid(images, columns=3))
    assert np.array_equal(saved, plain.repeat(4, axis=0).repeat(4, axis=1))
    with pytest.raises(ConfigError, match="scale >= 1"):
        save_grid(images, tmp_path / "c.png", columns=3, scale=0)


def test_png_keeps_every_pixel():
    picture = grid(numbered(4, channels=3), columns=2)
    assert np.array_equal(np.array(Image.open(io.BytesIO(png_bytes(picture)))), np.array(picture))


def test_an_overlay_is_dark_where_the_map_is_and_keeps_the_picture():
    images = np.zeros((2, 3, 4, 6), dtype=np.uint8)
    images[:, 0, :, 3:] = 120  # red, of brightness 40
    maps = np.array([[[0.0, 0.0]], [[1.0, 0.0]]])  # one value for each half
    shown = overlay(images, maps)
    assert shown.shape == images.shape
    assert (shown[0, :, :, :3] == 0).all() and (shown[:, :, :, 3:] == round(0.4 * 40)).all()
    assert np.array_equal(
        shown[1, :, 0, 0], (0.6 * heat_map(np.ones((1, 1, 1)))[0, :, 0, 0]).round()
    )
    with pytest.raises(InputError, match="maps of shape \\(2, h, w\\), one per image"):
        overlay(images, maps[:1])
