"""Unreadable images: refused, or skipped up to an allowance, counted and listed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from code_samples import random_pixels, small_plan
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagetok.codes.encode import encode, encode_dataset, estimate
from imagetok.codes.reader import open_codes
from imagetok.codes.verify import verify_codes
from imagetok.data import FolderConfig, ImageDataset, open_images
from imagetok.data.unreadable import parse_allowance
from imagetok.errors import ConfigError, InputError
from imagetok.images import to_unit_range

COUNT = 21


@pytest.fixture
def images(tokenizer, tmp_path) -> ImageDataset:
    """A folder of pictures of two classes."""
    for i, pixels in enumerate(random_pixels(COUNT)):
        folder = tmp_path / "images" / ("cat" if i < 10 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(folder / f"{i:03d}.png")
    return open_images(FolderConfig(root=str(tmp_path / "images")), "all", tokenizer.image)


def damage(images: ImageDataset, *indices: int) -> None:
    for index in indices:
        with open(images.path_of(index), "r+b") as file:  # noqa: PTH123
            file.truncate(file.seek(0, 2) - 40)


def test_the_first_unreadable_image_stops_it_by_default(images, tokenizer, tmp_path):
    damage(images, 9, 12)
    with pytest.raises(InputError, match=r"cat/009\.png: truncated; more images are unreadable"):
        encode_dataset(tokenizer, images, tmp_path / "codes", small_plan(tokenizer, images))


# A whole micro-batch of 3, a whole block of 4 and a whole shard of 8 are among them.
@pytest.mark.parametrize("bad", [(0,), (20,), (3, 4, 5), (8, 9, 10, 11), tuple(range(8, 16))])
def test_allowed_skips_are_counted_and_listed(bad, images, tokenizer, tmp_path):
    good = [i for i in range(COUNT) if i not in bad]
    codes = tokenizer.encode(to_unit_range(images.read(good).images))
    damage(images, *bad)
    plan = small_plan(tokenizer, images)
    report = encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=len(bad))
    assert (report.inputs, report.written, report.skipped) == (COUNT, len(good), len(bad))
    assert [(skip.index, skip.path) for skip in report.skips] == [
        (i, images.path_of(i)) for i in bad
    ]
    assert {skip.reason for skip in report.skips} == {"truncated"}
    dataset = open_codes(tmp_path / "codes")
    batch = dataset.__getitems__(range(len(good)))
    assert torch.equal(batch.codes[0], codes[0])
    assert batch.keys.tolist() == good
    assert batch.labels.tolist() == [int(i >= 10) for i in good]
    assert [dataset[i].key for i in range(len(dataset))] == good
    assert verify_codes(tmp_path / "codes") == []


def test_workers_skip_as_this_process_does(images, tokenizer, tmp_path):
    damage(images, 2, 9, 10, 11)
    plan = small_plan(tokenizer, images)
    for name, workers in (("none", 0), ("two", 2)):
        encode_dataset(tokenizer, images, tmp_path / name, plan, max_skips=4, workers=workers)
    for file in (tmp_path / "none").iterdir():
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(InputError, match=r"dog/010\.png: truncated; more images are unreadable"):
        encode_dataset(tokenizer, images, tmp_path / "few", plan, max_skips=1, workers=2)


def test_the_allowance_is_over_the_whole_dataset_and_a_rerun_may_raise_it(
    images, tokenizer, tmp_path
):
    damage(images, 1, 18)  # one in the first shard, one in the last
    plan = small_plan(tokenizer, images)
    with pytest.raises(InputError, match=r"dog/018\.png: truncated; more images are unreadable"):
        encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=1)
    report = encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=2)
    assert (report.written, report.skipped) == (19, 2)


def test_nothing_but_unreadable_images_makes_an_empty_dataset(images, tokenizer, tmp_path):
    damage(images, *range(COUNT))
    plan = small_plan(tokenizer, images)
    report = encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=COUNT)
    assert (report.written, report.skipped) == (0, COUNT)
    assert len(open_codes(tmp_path / "codes")) == 0
    assert verify_codes(tmp_path / "codes") == []


def test_an_estimate_writes_nothing(images, tokenizer, tmp_path):
    plan = small_plan(tokenizer, images)
    guess = estimate(tokenizer, images, tmp_path / "codes", plan)
    assert not (tmp_path / "codes").exists()
    report = encode_dataset(tokenizer, images, tmp_path / "codes", plan)
    assert (guess.inputs, guess.num_shards) == (report.inputs, report.num_shards)
    assert report.num_bytes <= guess.num_bytes <= 3 * report.num_bytes
    assert guess.seconds > 0 and guess.free_bytes > 0


@given(count=st.integers(0, 10**9), inputs=st.integers(0, 10**9))
def test_an_allowance_is_a_count_or_a_share(count, inputs):
    assert parse_allowance(str(count), inputs) == count
    assert parse_allowance("100%", inputs) == inputs
    assert parse_allowance("0%", inputs) == 0
    assert parse_allowance("50%", inputs) == inputs // 2


def test_a_share_is_rounded_down():
    assert parse_allowance("0.5%", 1000) == 5
    assert parse_allowance("0.5%", 1199) == 5
    assert parse_allowance("0.1%", 999) == 0
    assert parse_allowance("0.57%", 100_000) == 570  # not exact in floating point


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "many", "%", "-1%", "101%", "nan%", "inf%", "inf", "nan", "1 %%"]
)
def test_any_other_allowance_is_refused(text):
    with pytest.raises(ConfigError, match="--max-skip"):
        parse_allowance(text, 100)


def test_the_pixels_of_a_folder_are_those_that_were_saved(images):
    """What the comparisons above rest on."""
    assert np.array_equal(images.read(range(COUNT)).images, random_pixels(COUNT))


def a_folder_of_everything(root: Path) -> dict[str, str]:
    """Fill a folder as a disk does; return the reason for each image that cannot be read."""
    picture = Image.new("RGB", (9, 9), "red")
    for name in ("a.jpg", "B.JPEG", "c.jfif", "d.avif", "e.jp2", "f.webp", "g.ppm", "h.tar.png"):
        picture.save(root / name)
    picture.save(root / "lies.jpg", "PNG")
    (root / "link.png").symlink_to(root / "a.jpg")
    for name in ("notes.txt", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.jpg", "a.jpg.txt", "x"):
        (root / name).write_bytes(b"\0\5\x16\7")
    unread = {
        "1.nef": (b"MM\0*" + bytes(60), "unsupported_format"),
        "2.CR3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "unsupported_format"),
        "3.psd": (b"8BPS\0\1" + bytes(60), "unsupported_format"),
        "4.svg": (b"<?xml version='1.0'?><svg/>", "unsupported_format"),
        "5.jxl": (b"\xff\x0a" + bytes(60), "unsupported_format"),
        "6.png": (b"", "not_image"),
        "7.tif": (b"a note", "not_image"),
        "8.xcf": (b"", "not_image"),
    }
    for name, (data, _) in unread.items():
        (root / name).write_bytes(data)
    (root / "9.png").symlink_to(root / "gone.png")
    (root / "10.gif").write_bytes((root / "f.webp").read_bytes()[:20])
    os.mkfifo(root / "11.bmp")
    reasons = {name: reason for name, (_, reason) in unread.items()}
    return reasons | {"9.png": "missing", "10.gif": "truncated", "11.bmp": "unreadable"}


def test_every_file_that_looks_like_an_image_is_written_or_named(tokenizer, tmp_path):
    (tmp_path / "photos").mkdir()
    unread = a_folder_of_everything(tmp_path / "photos")
    done = encode(tokenizer, tmp_path / "photos", tmp_path / "codes", max_skip="100%")
    assert {Path(skip.path).name: skip.reason for skip in done.skips} == unread
    assert (done.inputs, done.written, done.skipped) == (10 + len(unread), 10, len(unread))
    assert verify_codes(tmp_path / "codes") == []


def test_images_that_are_counted_now_are_named_when_codes_are_continued(tokenizer, tmp_path):
    """As when an earlier version, which left them out, began the dataset."""
    photos, codes = tmp_path / "photos", tmp_path / "codes"
    photos.mkdir()
    Image.new("RGB", (9, 9)).save(photos / "a.jpg")
    encode(tokenizer, photos, codes)
    Image.new("RGB", (9, 9)).save(photos / "b.avif")
    for name in ("c.NEF", "d.nef"):
        (photos / name).write_bytes(bytes(60))
    with pytest.raises(
        ConfigError, match=r"num_inputs: 1 .*\n.*same, but its images.*\(1 \.avif, 2 \.nef\)"
    ):
        encode(tokenizer, photos, codes)
    for name in ("b.avif", "c.NEF", "d.nef"):
        (photos / name).unlink()
    encode(tokenizer, photos, codes)
    Image.new("RGB", (9, 9)).save(photos / "e.jpg")
    with pytest.raises(ConfigError, match="reads them differently\nchoose another folder"):
        encode(tokenizer, photos, codes)
