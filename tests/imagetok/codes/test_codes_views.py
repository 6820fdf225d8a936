"""Code datasets of several views of each image."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from code_samples import failing_at, random_pixels
from disk_faults import at_every_operation, in_fork
from PIL import Image

import imagetok
from cli.main import _run
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.schema import PLAN
from imagetok.codes.verify import verify_codes
from imagetok.data import FolderConfig, open_images
from imagetok.data.views import ImageViews, picture_contract
from imagetok.errors import ConfigError, InputError, ShardError
from imagetok.images import to_unit_range

COUNT, RANGE = 7, 1.5


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of 12 x 12 pixels, of two classes."""
    for i in range(COUNT):
        place = tmp_path / "images" / ("cat" if i < 4 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = random_pixels(4 * (i + 1))[-4:].view(16, 16)[:12, :12]
        Image.fromarray(pixels.contiguous().numpy()).save(place / f"{i}.png")
    return tmp_path / "images"


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def encode(tokenizer, folder: Path, out: Path, **options) -> CodeDataset:
    options = {"views": 10, "crop_range": RANGE, "samples_per_shard": 25, **options}
    return imagetok.encode(tokenizer, folder, out, progress=False, **options).dataset


def test_the_codes_are_those_of_the_crops(tokenizer, folder, tmp_path):
    dataset = encode(tokenizer, folder, tmp_path / "codes")
    form = picture_contract(tokenizer.image, RANGE)
    pictures = open_images(FolderConfig(root=str(folder)), "all", form)
    crops = ImageViews(pictures, 10, tokenizer.image).read(range(10 * COUNT))
    codes = tokenizer.encode(to_unit_range(crops.images))
    found = dataset.__getitems__(range(len(dataset)))
    assert torch.equal(found.codes[0], codes[0])
    assert len(set(map(bytes, found.codes[0].to(torch.uint8).numpy()))) > 5 * COUNT
    assert found.labels.tolist() == crops.labels.tolist()
    image, view = dataset.image_and_view(found.keys)
    assert image.tolist() == [i for i in range(COUNT) for _ in range(10)]
    assert view.tolist() == list(range(10)) * COUNT
    assert dataset.image_and_view(dataset[34].key) == (3, 4)
    plan = dataset.plan
    assert (plan.views, plan.crop_range, plan.num_images, dataset.views) == (10, RANGE, COUNT, 10)
    # Shards and forward passes have the views of whole images.
    assert (plan.samples_per_shard, plan.micro_batch, plan.num_shards) == (20, 60, 4)
    assert verify_codes(tmp_path / "codes") == []
    described = imagetok.inspect(tmp_path / "codes").content
    assert (described["images"], described["samples"]) == (COUNT, 10 * COUNT)


def test_one_view_is_planned_as_before(tokenizer, folder, tmp_path):
    dataset = encode(tokenizer, folder, tmp_path / "codes", views=1, crop_range=None)
    plan = json.loads((tmp_path / "codes" / PLAN).read_text())
    assert not {"views", "crop_range"} & plan.keys()
    assert (plan["micro_batch"], plan["samples_per_shard"]) == (64, 25)
    assert dataset.image_and_view(5) == (5, 0)


def test_an_unreadable_image_is_skipped_with_all_its_views(tokenizer, folder, tmp_path, capsys):
    (folder / "cat" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"cat/2\.png: not_image; more images are unreadable"):
        encode(tokenizer, folder, tmp_path / "codes")
    done = imagetok.encode(
        tokenizer, folder, tmp_path / "codes", views=10, crop_range=RANGE, samples_per_shard=25,
        max_skip=1, progress=False,
    )  # fmt: skip
    assert (done.inputs, done.written, done.skipped) == (70, 60, 10)
    assert [skip.index for skip in done.skips] == list(range(20, 30))
    assert [skip.path for skip in done.skipped_images] == [str(folder / "cat" / "2.png")]
    assert done.rows()["images"] == done.num_images == COUNT
    keys = done.dataset.__getitems__(range(60)).keys
    assert keys.tolist() == [*range(20), *range(30, 70)]
    saved = tmp_path / "tokenizer"
    tokenizer.save_pretrained(saved)
    words = ["encode", "--tokenizer", saved, "--data", folder, "--shards", tmp_path / "again"]
    words += ["--views", "10", "--crop-range", RANGE, "--max-skip", "20%", "--device", "cpu"]
    assert _run([str(word) for word in words]) == 4
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("skipped ") for line in printed) == 2  # the file, and the sum
    assert f"skipped 1 of {COUNT}: not_image" in printed
    assert printed[-2:] == [
        f"inputs: 10 views of {COUNT} images, 1 image skipped",
        "inputs 70 == written 60 + skipped 10",
    ]


def test_killed_anywhere_and_rerun_it_is_the_same_bytes(tokenizer, folder, tmp_path):
    expected = content(encode(tokenizer, folder, tmp_path / "expected").folder)
    for point in range(2, 200, 25):
        out = tmp_path / f"{point}"

        def killed(point: int = point, out: Path = out) -> None:
            tick = failing_at(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
            with at_every_operation(tick):
                encode(tokenizer, folder, out)

        if in_fork(killed) == 0:
            break
        assert in_fork(lambda out=out: encode(tokenizer, folder, out) and None) == 0
        assert content(out) == expected
    assert point > 2


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(
    tokenizer, tokenizer_folder, folder, start_python, tmp_path
):
    encode(tokenizer, folder, tmp_path / "expected")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["-m", "imagetok", "encode", "--tokenizer", tokenizer_folder, "--data", folder]
    options = ["--views", "10", "--crop-range", RANGE, "--samples-per-shard", "25"]
    out = tmp_path / "two"
    process = start_python(*launcher, *command, *options, "--shards", out, "--device", "cpu")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    expected, found = (content(tmp_path / name) for name in ("expected", "two"))
    for name in (PLAN, "manifest.json"):  # these cover the tokenizer's name, which differs
        expected.pop(name), found.pop(name)
    assert found == expected


def test_other_views_than_those_of_the_folder_are_refused(tokenizer, folder, tmp_path):
    encode(tokenizer, folder, tmp_path / "codes")
    with pytest.raises(ConfigError, match=r"crop_range: 1\.5 in the folder, 1\.25 requested"):
        encode(tokenizer, folder, tmp_path / "codes", crop_range=1.25)
    with pytest.raises(ConfigError, match=r"views: 10 in the folder, 2 requested"):
        encode(tokenizer, folder, tmp_path / "codes", views=2, crop_range=None)


def test_exported_and_imported_it_is_the_same_dataset(tokenizer, folder, tmp_path):
    (folder / "dog" / "5.png").unlink()
    (folder / "dog" / "5.png").write_bytes(b"")
    dataset = encode(tokenizer, folder, tmp_path / "codes", max_skip=1)
    for form in ("parquet", "npy"):
        imagetok.export(dataset, tmp_path / f"codes.{form}", to=form)
        again = tmp_path / f"again-{form}"
        imagetok.import_codes(tmp_path / f"codes.{form}", tokenizer, again)
        assert content(again) == content(dataset.folder)


def test_merged_keys_run_on_and_still_tell_image_and_view(tokenizer, folder, tmp_path):
    parts = [encode(tokenizer, folder / name, tmp_path / name) for name in ("cat", "dog")]
    merged = imagetok.merge(parts, tmp_path / "all").dataset
    image, view = merged.image_and_view(merged.__getitems__(range(70)).keys)
    assert image.tolist() == [i for i in range(COUNT) for _ in range(10)]
    assert view.tolist() == list(range(10)) * COUNT
    single = encode(tokenizer, folder / "dog", tmp_path / "single", views=2, crop_range=None)
    with pytest.raises(ShardError, match=r"views of each image \(--views\): expected 10, found 2"):
        imagetok.merge([parts[0], single], tmp_path / "mixed")


def test_views_are_decoded_and_encoded_again(tokenizer, folder, tmp_path):
    dataset = encode(tokenizer, folder, tmp_path / "codes", limit=5)
    done = imagetok.decode(tokenizer, dataset, tmp_path / "decoded", progress=False)
    assert [int(file.stem) for file in done.files] == list(range(50))
    images = FolderConfig(root=str(folder))
    form = picture_contract(tokenizer.image, RANGE)
    opened = open_images(images, "all", form)
    found = imagetok.verify(dataset.folder, tokenizer=tokenizer, data=opened, reencode=50)
    assert found.is_good and found.num_reencoded == 50


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"views": 4}, "num_inputs: expected a multiple of 4, the views, found 70"),
        ({"views": 0}, "views"),
        ({"crop_range": 100}, "crop_range"),
        ({"samples_per_shard": 21}, "samples_per_shard: expected a multiple of 10"),
        ({"mirrors": 2}, "mirrors: unknown key"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tokenizer, folder, tmp_path, change, refusal):
    encode(tokenizer, folder, tmp_path / "codes")
    path = tmp_path / "codes" / PLAN
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=refusal):
        open_codes(tmp_path / "codes")
