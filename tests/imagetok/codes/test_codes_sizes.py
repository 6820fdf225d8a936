"""Images at their own sizes: a code dataset for each size, and an index of all."""

import hashlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from code_samples import make_tokenizer
from disk_faults import at_every_operation
from image_files import chunk
from PIL import Image

import imagetok
from cli.main import _run
from imagetok import open_codes
from imagetok.codes.index import open_datasets, read_index, source_indices, verify_index
from imagetok.codes.results import Encoded
from imagetok.errors import ConfigError, InputError, ShardError
from imagetok.tokenizers import Tokenizer

SIZES = [(8, 12), (9, 13), (16, 8), (8, 12), (31, 30), (16, 9)]  # (height, width); stride 2 or 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Grey images of several sizes, each with pixels of its own."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def encode(tokenizer: Tokenizer, photos: Path, out: Path, **options) -> Encoded:
    return imagetok.encode(tokenizer, photos, out, size="native", progress=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def cropped(size: tuple[int, int], stride: int) -> str:
    return "x".join(str(side // stride * stride) for side in size)


def test_each_size_is_an_ordinary_dataset_and_counts_hold_over_all(tokenizer, photos, tmp_path):
    done = encode(tokenizer, photos, tmp_path / "codes")
    assert (done.inputs, done.written, done.skipped) == (len(SIZES), len(SIZES), 0)
    names = [cropped(size, tokenizer.stride) for size in SIZES]
    found = {entry.folder: (entry, data) for entry, data in open_datasets(tmp_path / "codes")}
    assert {name: len(data) for name, (_, data) in found.items()} == {
        name: names.count(name) for name in names
    }
    for name, (entry, dataset) in found.items():
        indices = source_indices(tmp_path / "codes", entry)
        assert [names[i] for i in indices] == [name] * len(dataset)
        height, width = map(int, name.split("x"))
        sized = tokenizer.at_size(height, width, crop=True)
        assert dataset.grids == sized.grids and dataset.plan.image == sized.image
        for place, i in enumerate(indices):
            pixels = np.asarray(Image.open(photos / f"{i}.png"))
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            part = pixels[top : top + height, left : left + width].copy()
            expected = imagetok.encode(
                sized, part[None], tmp_path / f"one{i}", progress=False
            ).dataset
            assert np.array_equal(dataset[place].codes[0], expected[0].codes[0])
    assert sum(use.codes_used for use in done.usage) > 0


def test_a_rerun_after_any_interruption_gives_the_same_bytes(tokenizer, photos, tmp_path):
    class Crash(BaseException):
        pass

    encode(tokenizer, photos, tmp_path / "whole")
    whole, point = content(tmp_path / "whole"), 0
    assert verify_index(tmp_path / "whole") == []
    while True:
        left = iter(range(point))

        def crash(_: str, left=left) -> None:
            if next(left, None) is None:
                raise Crash

        out = tmp_path / f"crashed{point}"
        try:
            with at_every_operation(crash):
                encode(tokenizer, photos, out)
            break
        except Crash:
            encode(tokenizer, photos, out)
            assert content(out) == whole, point
        point += 17
    assert point > 17
    encode(tokenizer, photos, tmp_path / "whole")
    assert content(tmp_path / "whole") == whole


def test_small_and_damaged_images_are_counted_and_limited(tokenizer, photos, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for file in photos.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    Image.new("L", (1, 40)).save(folder / "a-line.png")
    (folder / "damaged.png").write_bytes((photos / "0.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"2 of 8 images .* a-line\.png|2 of 8 images"):
        encode(tokenizer, folder, tmp_path / "codes", max_skip=1)
    done = encode(tokenizer, folder, tmp_path / "codes", max_skip=2)
    assert (done.inputs, done.written, done.skipped) == (8, 6, 2)
    assert {skip.reason for skip in done.skips} >= {"too_small"}
    index = read_index(tmp_path / "codes")
    assert index.inputs == index.written + len(index.skipped) == 8


def test_a_size_of_which_no_image_can_be_decoded(tokenizer, photos, tmp_path):
    """Its header tells the size, so the damage is found when it is encoded."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    whole = (photos / "0.png").read_bytes()
    (folder / "whole.png").write_bytes(whole)
    head = whole[:16] + struct.pack(">II", 32, 24) + whole[24:29]
    head += struct.pack(">I", zlib.crc32(head[12:]))
    (folder / "damaged.png").write_bytes(head + chunk(b"IDAT", b"no pixels") + chunk(b"IEND", b""))
    done = encode(tokenizer, folder, tmp_path / "codes", max_skip=1)
    assert (done.inputs, done.written, done.skipped) == (2, 1, 1)
    assert verify_index(tmp_path / "codes") == []


def test_commands_know_the_index(tokenizer_folder, photos, tmp_path, capsys):
    out, tokenizer = tmp_path / "codes", str(tokenizer_folder)
    how = ["--tokenizer", tokenizer, "--shards", str(out)]
    assert _run(["encode", *how, "--data", str(photos), "--size", "native"]) == 0
    assert "inputs 6 == written 6 + skipped 0" in capsys.readouterr().out
    assert _run(["verify", str(out)]) == 0
    assert _run(["inspect", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert sum(entry["images"] for entry in shown["datasets"].values()) == 6
    assert _run(["decode", *how, "--out", str(tmp_path / "png")]) == 0
    sizes = sorted(Image.open(file).size[::-1] for file in (tmp_path / "png").rglob("*.png"))
    stride = Tokenizer.from_pretrained(tokenizer).stride
    assert sizes == sorted(tuple(s // stride * stride for s in size) for size in SIZES)
    assert _run(["merge", str(out), "--out", str(tmp_path / "merged")]) == 3
    assert "holds code datasets of several grids" in capsys.readouterr().err


def test_what_does_not_fit_is_refused(tokenizer, photos, tmp_path):
    encode(tokenizer, photos, tmp_path / "codes")
    with pytest.raises(ShardError, match="several grids, one a size of images; pass one of its"):
        open_codes(tmp_path / "codes")
    with pytest.raises(ConfigError, match="holds a different code dataset"):
        encode(make_tokenizer(seed=5), photos, tmp_path / "codes")
    with pytest.raises(ConfigError, match="images of this source have no size of their own"):
        encode(tokenizer, "digits:test", tmp_path / "digits")
    entry = read_index(tmp_path / "codes").datasets[0]
    path = tmp_path / "codes" / f"{entry.folder}.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert "its sha256 differs" in verify_index(tmp_path / "codes")[0]


def rewrite(folder: Path, change: Callable[[list[dict]], None], sources: bytes | None) -> None:
    """Write an index, and source indices of its first dataset, whose hashes are right."""
    index = json.loads((folder / "index.json").read_bytes())
    if sources is not None:
        (folder / f"{index['datasets'][0]['folder']}.npy").write_bytes(sources)
        index["datasets"][0]["sources_sha256"] = hashlib.sha256(sources).hexdigest()
    change(index["datasets"])
    (folder / "index.json").write_text(json.dumps(index))


def npy(values: list[int], dtype: str = "<u8") -> bytes:
    data = io.BytesIO()
    np.save(data, np.array(values, dtype))
    return data.getvalue()


def move_one(name: str) -> Callable[[list[dict]], None]:
    def change(datasets: list[dict]) -> None:
        datasets[0][name] += 1
        datasets[1][name] -= 1

    return change


def test_an_index_that_contradicts_its_datasets_is_refused(tokenizer, photos, tmp_path):
    encode(tokenizer, photos, tmp_path / "codes")
    first = read_index(tmp_path / "codes").datasets[0]
    wrong: list[tuple[Callable[[list[dict]], None], bytes | None, str]] = [
        (lambda datasets: datasets[1].update(folder=first.folder), None, "numbers or names"),
        (move_one("written"), None, "differ from those in index.json"),
        (lambda datasets: datasets[0].update(grids=[[1, 1]]), None, "differ from those in index"),
        (lambda datasets: None, b"junk", "expected a numpy array"),
        (lambda datasets: None, npy([0] * first.inputs, "<f8"), "numbers of type uint64, found f"),
        (lambda datasets: None, npy([0] * (first.inputs + 1)), "of shape"),
        (lambda datasets: None, npy([7] * first.inputs), "found some twice or not at all"),
    ]
    for number, (change, sources, message) in enumerate(wrong):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "codes", copy)
        rewrite(copy, change, sources)
        try:
            faults = verify_index(copy)
        except ShardError as error:
            faults = [str(error)]
        assert message in "\n".join(faults)


def test_photos_on_their_side_are_of_the_size_that_they_have_upright(tokenizer, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[274] = orientation
        pixels = np.random.default_rng(orientation).integers(0, 256, (8, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{orientation}.jpg", exif=exif)
    encode(tokenizer, folder, tmp_path / "codes")
    found = {entry.folder: len(data) for entry, data in open_datasets(tmp_path / "codes")}
    assert found == {"8x12": 2, "12x8": 2}


def test_folders_of_several_sizes_are_not_merged(tokenizer, photos, tmp_path):
    encode(tokenizer, photos, tmp_path / "codes")
    with pytest.raises(ShardError, match="several grids, one a size of images; pass one of its"):
        imagetok.merge([tmp_path / "codes", tmp_path / "codes"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
