"""A damaged image never ends a run: substituted, counted, named, and the same after a resume."""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from launcher import launch
from PIL import Image
from representative import slow_but
from test_resume import COMMAND, assert_same_run, start, tree, wait_for_step

from imagetok.config import validate
from imagetok.data.image_decoding import ImageError
from imagetok.errors import CheckpointError, ConfigError, InputError
from imagetok.training.config import TokenizerRun
from imagetok.training.metrics_log import read_json_lines
from imagetok.training.run_images import RunImages, parse_check, read_skipped
from imagetok.training.tokenizer import estimate_tokenizer, train_tokenizer

COUNT = 24
ENDINGS = ("jpg", "png")


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with 24 training and 10 held-out pictures, JPEG and PNG in turn."""
    draw = np.random.default_rng(0)
    for split, count in (("train", COUNT), ("test", 10)):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02d}.{ENDINGS[i % 2]}")
    return tmp_path / "images"


AUGMENT = {"horizontal_flip": True, "random_crop": {"side": 10}}


def run_config(
    images: Path, max_skip: int | str = 0, *, augment: dict | None = None, **train: object
) -> TokenizerRun:
    raw = tree(**{"steps": 8, "batch_size": 8, "checkpoint_every": 3} | train)
    raw["data"] = {"source": "folder", "root": str(images)}
    return validate({**raw, "max_skip": max_skip, "augment": augment}, TokenizerRun, "test")


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def corrupt(path: Path) -> None:
    """Change a byte inside a PNG, whose header and end stay sound."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def damage(images: Path) -> None:
    """Damage what a header shows (1 file), what only decoding shows (1), and a held-out file."""
    cut(images / "train" / "04.jpg", 0.6)
    corrupt(images / "train" / "07.png")
    corrupt(images / "test" / "03.png")


@pytest.mark.parametrize(
    ("workers", "augment"),
    slow_but([(2, None), (0, AUGMENT)], [(n, how) for n in (0, 2, 4) for how in (None, AUGMENT)]),
)
def test_damaged_images_are_substituted_and_a_resumed_run_is_the_same(
    images, tmp_path, workers, augment
):
    damage(images)
    config = run_config(images, 2, workers=workers, augment=augment)
    measures = train_tokenizer(config, tmp_path / "whole")
    assert (measures["num_images"], measures["skipped"]) == (9, 1)
    skipped = read_skipped(tmp_path / "whole")
    assert [(image.index, image.reason) for image in skipped.train] == [
        (4, "truncated"),
        (7, "unreadable"),
    ]
    assert [image.path for image in skipped.test] == [str(images / "test" / "03.png")]
    for stop in (2, 5):
        run = tmp_path / f"stop{stop}"
        begun = run_config(images, 2, workers=workers, augment=augment, steps=stop)
        train_tokenizer(begun, run)
        again = run_config(images, workers=workers, augment=augment)  # the allowance is remembered
        assert train_tokenizer(again, run, resume=True) == measures
        assert read_skipped(run) == skipped
    train_tokenizer(run_config(images, 2, augment=augment), tmp_path / "alone")
    assert_same_run(tmp_path / "whole", tmp_path / "alone", 8)


def test_an_evaluation_without_damaged_images_is_one_of_the_others(images, tmp_path):
    shutil.copytree(images, tmp_path / "removed")
    damage(images)
    (tmp_path / "removed" / "test" / "03.png").unlink()
    found = train_tokenizer(run_config(images, 2, steps=1), tmp_path / "a")
    damage_free = [
        shutil.copy(images / "train" / name, tmp_path / "removed" / "train" / name)
        for name in ("04.jpg", "07.png")
    ]
    assert len(damage_free) == 2
    expected = train_tokenizer(run_config(tmp_path / "removed", 2, steps=1), tmp_path / "b")
    assert found.pop("skipped") == 1
    assert found == expected


def test_too_much_damage_is_refused_before_training(images, tmp_path):
    damage(images)
    cut(images / "train" / "05.png", 0.3)
    with pytest.raises(InputError, match=r"(?s)2 of 24 images .*allows 1.*04\.jpg: truncated"):
        train_tokenizer(run_config(images, 1), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["damaged.json"]
    listed = json.loads((tmp_path / "run" / "damaged.json").read_bytes())
    assert [image["index"] for image in listed["train"]] == [4, 5]
    train_tokenizer(run_config(images, 3), tmp_path / "run")  # without --resume
    assert len(read_skipped(tmp_path / "run").train) == 3


def test_a_folder_with_a_run_is_refused_before_images_are_looked_at(images, tmp_path):
    train_tokenizer(run_config(images, steps=1), tmp_path / "run")
    (images / "train" / "07.png").write_bytes(b"")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ConfigError, match="not empty; add --resume"):
        train_tokenizer(run_config(images, 1), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_damage_that_only_decoding_shows_stops_without_loss(images, tmp_path):
    sound = (images / "train" / "07.png").read_bytes()
    corrupt(images / "train" / "07.png")
    with pytest.raises(ImageError, match=r"07\.png: unreadable; .*--max-skip 2; .*--resume"):
        train_tokenizer(run_config(images), tmp_path / "run")
    (images / "train" / "07.png").write_bytes(sound)
    train_tokenizer(run_config(images), tmp_path / "run", resume=True)
    train_tokenizer(run_config(images), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run", 8)
    assert not (tmp_path / "run" / "skipped.json").exists()


def test_a_held_out_image_that_cannot_be_decoded_is_refused_with_the_remedy(images, tmp_path):
    corrupt(images / "test" / "05.png")
    with pytest.raises(ImageError, match=r"05\.png: .*of 10 images; .*--max-skip 2; .*--resume"):
        train_tokenizer(run_config(images, steps=1), tmp_path / "run")


def test_a_dry_run_names_the_damage_it_met_and_advises_no_resume(images):
    corrupt(images / "train" / "07.png")
    with pytest.raises(ImageError, match=r"07\.png: unreadable; .*--max-skip 2$"):
        estimate_tokenizer(run_config(images))
    found = estimate_tokenizer(run_config(images, 2))
    assert [Path(path).name for path in found.unreadable] == ["07.png"]
    assert "07.png (unreadable)" in str(found)


def test_a_run_goes_on_with_its_own_images(images, tmp_path, caplog):
    """Removed files are missing, added ones are not read, and the split stays what it was."""
    flat = tmp_path / "flat"
    shutil.copytree(images / "train", flat)
    train_tokenizer(run_config(flat, steps=4), tmp_path / "run")
    lists = json.loads(gzip.decompress((tmp_path / "run" / "images.json.gz").read_bytes()))
    for i in range(3):
        shutil.copy(images / "test" / "00.jpg", flat / f"added{i}.jpg")
    (flat / lists["train"]["names"][2]).unlink()
    with pytest.raises(InputError, match=r"1 of 22 images .*allows 0"):
        train_tokenizer(run_config(flat), tmp_path / "run", resume=True)
    caplog.clear()
    measures = train_tokenizer(run_config(flat, 1), tmp_path / "run", resume=True)
    assert measures["num_images"] == 2
    assert "found 3 images added since the run started" in caplog.text
    assert "folder:train: 1 of 22 images" in caplog.text and "folder:all" not in caplog.text
    assert [image.reason for image in read_skipped(tmp_path / "run").train] == ["missing"]
    again = json.loads(gzip.decompress((tmp_path / "run" / "images.json.gz").read_bytes()))
    assert again == lists


def pack(path: Path, values: dict[str, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in values.items():
            data = io.BytesIO()
            Image.new("RGB", (8, 8), (value, value, value)).save(data, "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))


def test_images_of_one_name_in_two_splits_are_never_exchanged(tmp_path):
    """Of two tars of one name, an image that one lacks is not read from the other."""
    values = {f"{i}.png": i for i in range(8)}
    pack(tmp_path / "train" / "0.tar", values)
    pack(tmp_path / "test" / "0.tar", {name: 100 + value for name, value in values.items()})
    raw = run_config(tmp_path, 1).model_dump()
    raw["data"] = {
        "source": "webdataset",
        "shards": str(tmp_path / "train" / "*.tar"),
        "test": str(tmp_path / "test" / "*.tar"),
    }
    config = validate(raw, TokenizerRun, "test")
    train_tokenizer(config, tmp_path / "run")
    pack(tmp_path / "train" / "0.tar", {n: v for n, v in values.items() if v != 3})
    images = RunImages(config, tmp_path / "run", resume=True)
    assert [image.index for image in images.training.missing] == [3]
    read = images.training.read([0, 1, 2, 4, 5, 6, 7]).images[:, 0, 0, 0]
    assert read.tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_a_file_that_vanishes_between_evaluations_is_left_out(images, tmp_path, monkeypatch):
    from imagetok.training import tokenizer as wiring

    original = wiring.evaluate_reconstruction

    def first(*arguments):
        measures = original(*arguments)
        (images / "test" / "04.jpg").unlink(missing_ok=True)
        return measures

    monkeypatch.setattr(wiring, "evaluate_reconstruction", first)
    train_tokenizer(run_config(images, 1, evaluate_every=4), tmp_path / "run")
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    counts = [r["num_images"] for r in records if r["split"] == "test"]
    assert counts == [10, 9]


def test_a_run_without_a_list_goes_on_only_with_the_same_images(images, tmp_path):
    """As runs of earlier versions."""
    train_tokenizer(run_config(images, steps=4), tmp_path / "run")
    (tmp_path / "run" / "images.json.gz").unlink()
    shutil.copytree(images, tmp_path / "fewer")
    (tmp_path / "fewer" / "train" / "00.jpg").unlink()
    with pytest.raises(CheckpointError, match="other training data"):
        train_tokenizer(run_config(tmp_path / "fewer"), tmp_path / "run", resume=True)
    assert not (tmp_path / "run" / "images.json.gz").exists()
    train_tokenizer(run_config(images), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "images.json.gz").is_file()


def lists_of(**train: object) -> bytes:
    alone = {"count": 0, "identity": "0"}
    return gzip.compress(json.dumps({"train": alone | train, "test": alone}).encode())


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"x" * 40, gzip.compress(b"{}"), gzip.compress(b"[1")),
        lists_of(count=2, names=["a", "b"], sizes=[1], labels=[0, 0]),
        lists_of(count=1, names=["a", "b"], sizes=[1, 1], labels=[0, 0]),
    ],
    ids=["empty", "no gzip", "no lists", "no JSON", "a size lacks", "a name too many"],
)
def test_a_damaged_list_is_refused(images, tmp_path, data):
    train_tokenizer(run_config(images, steps=4), tmp_path / "run")
    (tmp_path / "run" / "images.json.gz").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"images\.json\.gz"):
        train_tokenizer(run_config(images), tmp_path / "run", resume=True)


def test_nothing_but_damage_is_refused(images, tmp_path):
    for file in (images / "train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ImageError, match="an empty file"):
        train_tokenizer(run_config(images, "100%"), tmp_path / "run")


def test_the_config_states_an_allowance_only_if_it_has_one(images):
    assert "max_skip" not in run_config(images).model_dump()
    assert run_config(images, 3).model_dump()["max_skip"] == "3"
    for wrong in ("many", "-1", "200%", 1.5, True):
        with pytest.raises(ConfigError, match="max_skip"):
            run_config(images, wrong)  # pyright: ignore[reportArgumentType]


def test_a_check_is_a_number_all_or_off():
    assert [parse_check(check) for check in (5, "5", "all", "off")] == [5, 5, None, 0]
    for wrong in ("some", "-1", "", "²"):
        with pytest.raises(ConfigError, match="--check"):
            parse_check(wrong)


@pytest.mark.slow  # processes
def test_a_killed_run_with_damaged_images_resumes_to_the_same_bits(images, tmp_path):
    damage(images)
    path = tmp_path / "config.yaml"
    path.write_text(run_config(images, "10%").model_dump_json())
    whole, killed = (start(path, tmp_path / name) for name in ("whole", "killed"))
    wait_for_step(tmp_path / "killed", 25, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed = start(path, tmp_path / "killed", "--resume")
    assert [process.wait() for process in (whole, killed)] == [4, 4]
    assert_same_run(tmp_path / "whole", tmp_path / "killed", 60)
    skipped = [(tmp_path / name / "skipped.json").read_bytes() for name in ("whole", "killed")]
    assert skipped[0] == skipped[1]


@pytest.mark.slow  # processes
def test_two_processes_skip_what_one_skips(images, tmp_path):
    damage(images)
    path = tmp_path / "config.yaml"
    path.write_text(run_config(images, 2).model_dump_json())
    one = subprocess.run([*COMMAND, path, "--out", tmp_path / "one"], capture_output=True)
    two = launch(2, "train", path, "--out", tmp_path / "two")
    assert one.returncode == 4, one.stderr
    assert read_skipped(tmp_path / "one") == read_skipped(tmp_path / "two"), two.stderr
    counts = [
        [r["num_images"] for r in read_json_lines(tmp_path / name / "metrics.jsonl")[-1:]]
        for name in ("one", "two")
    ]
    assert counts == [[9], [9]]
    refused = launch(2, "train", path, "--out", tmp_path / "more", "--max-skip", "0")
    assert "2 of 24 images" not in refused.stderr  # one of them only decoding shows
    assert "1 of 24 images cannot be read" in refused.stderr
