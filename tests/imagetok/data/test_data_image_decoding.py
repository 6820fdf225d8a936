"""Opening image files: every pixel right, or one clear refusal."""

import importlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import png
from PIL import Image, ImageFile

from imagetok.data import ImageError, open_image
from imagetok.data.image_decoding import MAX_PIXELS, decode_image
from imagetok.data.image_header import read_header

FORMATS = {
    "jpeg": {"format": "JPEG", "quality": 95},
    "progressive": {"format": "JPEG", "quality": 95, "progressive": True},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "bmp": {"format": "BMP"},
    "gif": {"format": "GIF"},
    "tiff": {"format": "TIFF"},
    "tiff-lzw": {"format": "TIFF", "compression": "tiff_lzw"},
}


def smooth(height: int = 24, width: int = 36) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    channels = [rows * 255 // height, columns * 255 // width, (rows + columns) * 2]
    return np.stack(channels, -1).astype(np.uint8)


def refusal(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    return caught.value


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff", "tiff-lzw"])
def test_lossless_formats_give_the_pixels_that_were_written(tmp_path, kind):
    path = tmp_path / "image"
    Image.fromarray(smooth()).save(path, **FORMATS[kind])
    assert np.array_equal(open_image(path), smooth())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_always_refused(tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    Image.fromarray(smooth()).save(whole, **FORMATS[kind])
    data = whole.read_bytes()
    size = len(data)
    open_image(whole)
    # A GIF ends with two bytes that say only that it ends.
    last = size - 3 if kind == "gif" else size - 1
    for length in {0, 1, 5, 17, 60, size // 4, size // 2, size * 3 // 4, size - 9, last}:
        cut.write_bytes(data[:length])
        assert refusal(cut).reason in ("truncated", "not_image", "unreadable")
    cut.write_bytes(data[: size * 3 // 4])
    if kind != "tiff-lzw":  # its directory is at the end, so what is left is no TIFF
        assert refusal(cut).reason == "truncated"
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_flipped_bit_of_a_png_is_refused(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(smooth()).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert refusal(path).reason == "unreadable"


@pytest.mark.parametrize("content", [b"", b"hello", b"GIF89", b"<html/>"])
def test_what_is_no_known_image_is_refused(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert refusal(path).reason == "not_image"


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    for path in (tmp_path / "pipe.png", tmp_path):
        assert refusal(path).reason == "unreadable"
    assert refusal(tmp_path / "missing.png").reason == "missing"


@pytest.mark.parametrize("size", [(MAX_PIXELS // 8192 + 1, 8192), (70_000, 1), (60_000, 60_000)])
def test_a_large_image_is_refused_by_its_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    assert refusal(path).reason == "too_large"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_modes_of_unknown_range_are_refused(tmp_path, mode):
    path = tmp_path / "image.tiff"
    Image.new(mode, (4, 4)).save(path)
    error = refusal(path)
    assert error.reason == "unsupported_mode"
    assert f"mode {mode}" in str(error)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_16_bit_ramp_keeps_256_levels(tmp_path, suffix):
    path = tmp_path / f"ramp.{suffix}"
    ramp = np.arange(0, 65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(path)
    pixels = open_image(path)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.rint(ramp * (255 / 65535)).astype(np.uint8))
    assert len(np.unique(pixels)) == 256


def test_16_bit_white_is_zero_is_refused_not_inverted(tmp_path):
    path = tmp_path / "image.tiff"
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(path, tiffinfo={262: 0})
    assert refusal(path).reason == "unsupported_mode"


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, kind, orientation):
    pixels = smooth()
    stored_as = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    Image.fromarray(np.ascontiguousarray(stored_as)).save(path, exif=exif, **FORMATS[kind])
    apply_exif_orientation = open_image(path)
    assert apply_exif_orientation.shape == pixels.shape
    assert np.abs(apply_exif_orientation.astype(int) - pixels).mean() < 3


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth()).save(path, exif=b"Exif\x00\x00II*\x00\xff\xff")
    assert open_image(path).shape == smooth().shape


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path, mode):
    path = tmp_path / "image.png"
    image = Image.new(mode, (3, 1), 0)
    ink = (0,) * (len(mode) - 1)
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*ink, alpha))
    image.save(path)
    expected = [255, 127, 0]
    pixels = open_image(path)
    assert pixels.shape == ((1, 3) if mode == "LA" else (1, 3, 3))
    assert np.array_equal(pixels.reshape(3, -1)[:, 0], expected)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_palette_entries_are_white(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(path, transparency=0)
    assert open_image(path).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("mode, dtype", [("L", np.uint8), ("I;16", np.uint16)])
def test_a_transparent_grey_value_is_white(tmp_path, mode, dtype):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[7, 0]], dtype)).save(path, transparency=7)
    assert open_image(path).tolist() == [[255, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, quality=95)
    red = open_image(path)[4, 4].astype(int)
    assert np.abs(red - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("suffix", ["gif", "webp", "tiff"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=[second], **options)
    assert np.array_equal(open_image(path)[0, 0], [255, 0, 0])


def test_one_bit_images_are_black_and_white(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    assert open_image(path).tolist() == [[255, 0]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_levels_of_any_depth_are_classes_as_they_are(tmp_path, bits):
    classes = np.arange(64).reshape(8, 8) % (1 << bits)
    path = tmp_path / "labels.png"
    path.write_bytes(png(classes, bits, 0))
    assert np.array_equal(open_image(path, as_labels=True), classes)
    assert open_image(path).max() == classes.max() * 255 // ((1 << bits) - 1)


def test_a_heic_is_read_with_its_library_and_named_without(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "photo.HEIC"
    heif.from_pillow(Image.fromarray(smooth())).save(path, quality=95)
    assert np.abs(open_image(path).astype(int) - smooth()).mean() < 4
    data = path.read_bytes()
    path.write_bytes(data[:-200])
    assert refusal(path).reason == "truncated"
    path.write_bytes(data)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = refusal(path)
    assert error.reason == "needs_imagetok[heic]"
    assert 'pip install "imagetok[heic]"' in str(error)


def test_a_heic_is_turned_by_its_property_and_never_by_exif():
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(np.ascontiguousarray(np.rot90(smooth())))
    file = io.BytesIO()
    heif.from_pillow(image).save(file, quality=95, exif=EXIF_OF_ORIENTATION_6)
    data = file.getvalue()
    assert EXIF_OF_ORIENTATION_6 in data
    place = data.index(b"irot") + 4
    lying, upright = (data[:place] + turns + data[place + 1 :] for turns in (b"\0", b"\3"))
    assert np.abs(decode_image(lying, "image").astype(int) - np.asarray(image)).mean() < 4
    assert np.abs(decode_image(upright, "image").astype(int) - smooth()).mean() < 4
    for turned in (lying, upright):
        header = read_header(io.BytesIO(turned), "image")
        assert (header.height, header.width) == decode_image(turned, "image").shape[:2]
    damaged = upright.replace(b"II*\0", b"\xff\xff\xff\xff")
    assert np.array_equal(decode_image(damaged, "image"), decode_image(upright, "image"))


EXIF_OF_ORIENTATION_6 = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)


def test_the_former_module_is_imported_with_a_warning_that_names_the_new_place():
    sys.modules.pop("imagetok.data.open", None)
    with pytest.warns(DeprecationWarning, match=r"from imagetok\.data$") as warnings:
        former = importlib.import_module("imagetok.data.open")
    assert len(warnings) == 1
    assert former.open_image is open_image and former.ImageError is ImageError
