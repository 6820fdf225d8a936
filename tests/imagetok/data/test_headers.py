"""A look at the headers of files: sizes, damage, and what the cache may and may not keep."""

import io
import os
import sqlite3
import struct
import tarfile
import zlib
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from imagetok.data import FolderConfig, WebDatasetConfig, open_images
from imagetok.data.base import ArrayImages, ImageDataset
from imagetok.data.header_cache import HeaderCache
from imagetok.data.headers import look_at
from imagetok.data.image_decoding import ImageError, open_image
from imagetok.data.image_header import ImageHeader, read_header
from imagetok.data.subset import FirstImages, ImageSubset
from imagetok.images import ImageContract

CONTRACT = ImageContract(mode="rgb", height=8, width=8)
ENDINGS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WEBP": "webp"}


def encoded(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """A picture of noise, (width, height) pixels, as PIL writes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> ImageDataset:
    for name, data in files.items():
        (root / name).write_bytes(data)
    return open_images(FolderConfig(root=str(root)), "all", CONTRACT)


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_header_says_size_mode_and_format(kind):
    data = encoded(kind)
    found = read_header(io.BytesIO(data), "picture")
    mode = "P" if kind == "GIF" else "RGB"
    assert found == ImageHeader(40, 30, mode, kind, len(data))


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def turned(place: str, orientation: int) -> bytes:
    """A picture that states its orientation in one of the places where files have it."""
    exif = Image.Exif()
    exif[274] = orientation
    if place in ("JPEG", "PNG", "WEBP", "AVIF"):
        return encoded(place, exif=exif)
    if place == "TIFF":
        return encoded("TIFF", tiffinfo={274: orientation})
    plain = encoded("PNG")
    text = f"\nexif\n8\n{exif.tobytes().hex()}\n".encode()
    late = {
        "after the pixels": chunk(b"eXIf", exif.tobytes()[6:]),
        "text": chunk(b"tEXt", b"Raw profile type exif\0" + text),
        "packed text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    }
    return plain[:-12] + late[place] + plain[-12:]


PLACES = ["JPEG", "PNG", "WEBP", "TIFF", "after the pixels", "text", "packed text"]
PLACES += ["AVIF"] * features.check("avif")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(place, orientation, tmp_path):
    data = turned(place, orientation)
    (tmp_path / "a").write_bytes(data)
    found = read_header(io.BytesIO(data), "picture")
    decoded = open_image(tmp_path / "a").shape[:2]
    assert (found.height, found.width) == decoded
    assert decoded == ((40, 30) if orientation > 4 else (30, 40))


@pytest.mark.parametrize("kind", ENDINGS)
@pytest.mark.parametrize("cut", [0, 4, 0.3, 0.7, 0.95, -1])
def test_what_the_look_lists_is_what_reading_refuses(kind, cut, tmp_path):
    """Cut short at many places: listed only if reading fails, and with the same reason."""
    whole = encoded(kind)
    data = whole[: cut if isinstance(cut, int) else int(len(whole) * cut)]
    dataset = folder(tmp_path, {f"a.{ENDINGS[kind]}": data})
    found = look_at(dataset)
    assert found.is_whole
    try:
        dataset.read([0])
        refused = []
    except ImageError as error:
        refused = [(0, str(tmp_path / f"a.{ENDINGS[kind]}"), error.reason)]
    assert [astuple(image) for image in found.damaged] == refused
    assert len(found.found) == 1 - len(refused)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_whole_image_with_data_behind_it_is_sound(kind, tmp_path):
    dataset = folder(tmp_path, {f"a.{ENDINGS[kind]}": encoded(kind) + b"a film follows"})
    dataset.read([0])
    assert not look_at(dataset).damaged


def test_a_missing_file_and_one_that_is_no_image_are_listed(tmp_path):
    dataset = folder(tmp_path, {f"{i}.png": encoded("PNG") for i in range(4)})
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").write_text("a note")
    damaged = look_at(dataset).damaged
    assert [(image.index, image.reason) for image in damaged] == [(1, "missing"), (3, "not_image")]
    of_first = look_at(FirstImages(dataset, 2))
    assert (of_first.total, len(of_first.damaged)) == (2, 1)
    assert len(look_at(ImageSubset(dataset, 4)).damaged) == 2


def test_a_limit_is_spread_over_the_dataset(tmp_path):
    dataset = folder(tmp_path, {f"{i}.png": encoded("PNG") for i in range(9)})
    found = look_at(dataset, limit=3)
    assert list(found.found) == [0, 3, 6]
    assert (found.total, found.looked_at, found.is_whole) == (9, 3, False)


def test_members_of_a_tar_are_looked_at(tmp_path):
    files = {"a.jpg": encoded("JPEG"), "b.jpg": encoded("JPEG")[:500], "c.png": encoded("PNG")}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    config = WebDatasetConfig(shards=str(tmp_path / "a.tar"))
    found = look_at(open_images(config, "all", CONTRACT))
    assert [image.path for image in found.damaged] == [str(tmp_path / "a.tar" / "b.jpg")]
    assert {index: header.format for index, header in found.found.items()} == {0: "JPEG", 2: "PNG"}


def test_images_without_files_are_not_looked_at():
    contract = ImageContract(mode="grey", height=8, width=8)
    pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    found = look_at(ArrayImages(pixels, name="zeros", split="all", contract=contract))
    assert (found.total, found.looked_at) == (3, 0)


def test_the_cache_keeps_a_header_until_the_file_changes(tmp_path):
    file, cache = tmp_path / "a.png", tmp_path / "cache" / "headers.sqlite"
    file.write_bytes(encoded("PNG"))
    header = ImageHeader(1, 2, "L", "PNG", 3)
    with HeaderCache(1000, cache) as first:
        assert first.get("a", file) is None
        first.put("a", file, header)
    with HeaderCache(1000, cache) as second:
        assert second.get("a", file) == header
        assert second.get("b", file) is None
        file.write_bytes(encoded("PNG", size=(41, 30)))
        assert second.get("a", file) is None
        file.unlink()
        assert second.get("a", file) is None
    with HeaderCache(999, cache) as unused:
        unused.put("a", tmp_path, header)
        assert unused.get("a", tmp_path) is None


def test_a_damaged_cache_or_none_is_no_obstacle(tmp_path):
    (tmp_path / "damaged").write_bytes(b"x" * 5000)
    header = ImageHeader(1, 2, "L", "PNG", 3)
    for path in (tmp_path / "damaged", tmp_path / "damaged" / "below a file"):
        with HeaderCache(1000, path) as cache:
            cache.put("a", tmp_path, header)
            assert cache.get("a", tmp_path) is None


def test_what_a_cache_cannot_hold_is_read_from_the_file(tmp_path):
    """A file name that is no text, values that no header has, a table of another form."""
    file, path = tmp_path / "a.png", tmp_path / "headers.sqlite"
    file.write_bytes(encoded("PNG"))
    header = ImageHeader(1, 2, "L", "PNG", 3)
    name = os.fsdecode(b"\xff\xfe.png")
    for _ in range(2):
        with HeaderCache(1000, path) as cache:
            assert cache.get(name, file) is None
            cache.put(name, file, header)
            cache.put("a", file, header)
    for change in ("update headers set width = 'x', height = null", "drop table headers"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(change)
            if change.startswith("drop"):
                connection.execute("create table headers (other int)")
        with HeaderCache(1000, path) as cache:
            assert cache.get("a", file) is None
            cache.put("a", file, header)


def test_many_files_are_looked_at_once(tmp_path, monkeypatch):
    """The second look takes sound files from the cache, and damaged ones from the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    files = {f"{i:04d}.png": encoded("PNG", (8, 8)) for i in range(1000)}
    dataset = folder(tmp_path / "images", files | {"0500.png": b""})
    first = look_at(dataset)
    read = []
    monkeypatch.setattr(type(dataset), "header", lambda self, i: read.append(i) or _empty(self, i))
    assert look_at(dataset) == first
    assert read == [500]


def _empty(dataset: ImageDataset, index: int) -> None:
    path = dataset.path_of(index)
    raise ImageError(f"{path}: found an empty file", path, "not_image")
