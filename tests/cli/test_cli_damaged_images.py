"""Commands on a folder with damaged pictures: what they skip is listed, and ends with code 4."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imagetok
from cli.main import _run as run_command
from imagetok.errors import InputError
from imagetok.training.run_images import read_skipped

SET = ["data={source: folder, root: %s}", "train.steps=2", "train.batch_size=4"]
SET += ["train.trackers=[]", "train.workers=0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of 12 training and 10 held-out pictures, with one damaged picture in each."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 10)):
        (root / split).mkdir()
        for i in range(count):
            pixels = draw.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i:02d}.png")
        data = (root / split / "03.png").read_bytes()
        (root / split / "03.png").write_bytes(data[:-60])
    return root


@pytest.fixture(scope="module")
def settings(images) -> list[str]:
    return [text % images if "%s" in text else text for text in SET]


@pytest.fixture(scope="module")
def run(images, settings, tmp_path_factory) -> Path:
    """A run of two steps that skipped both."""
    out = tmp_path_factory.mktemp("run") / "run"
    done = imagetok.train("digits/edvae", out=out, set=settings, max_skip=1, progress=False)
    assert done.measures["skipped"] == 1
    assert [image.path for image in done.skipped.test] == [str(images / "test" / "03.png")]
    return out


def test_train_refuses_or_skips(images, settings, tmp_path, capsys):
    words = [word for text in settings for word in ("--set", text)]
    words = ["train", "digits/edvae", *words, "--out", str(tmp_path / "run")]
    assert run_command(words) == 3
    shown = capsys.readouterr()
    assert "03.png: truncated" in shown.err and "--max-skip 2" in shown.err
    assert str(tmp_path / "run" / "damaged.json") in shown.err
    assert run_command([*words, "--max-skip", "10%", "--check", "all"]) == 4
    assert f"skipped {images / 'test' / '03.png'}: truncated" in capsys.readouterr().out
    assert run_command([*words, "--resume"]) == 4  # finished, with the same skips
    assert run_command([*words, "--resume", "--check", "some"]) == 2
    assert len(read_skipped(tmp_path / "run").test) == 1


def test_a_prior_has_no_images_to_skip(capsys):
    assert run_command(["train", "digits/gpt", "--max-skip", "1"]) == 2
    assert "--max-skip: applies to images" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "uncertainty", "explore"])
def test_what_measures_images_leaves_unreadable_ones_out(command, images, run, tmp_path, capsys):
    data = f"folder:test,root={images}"
    words = [command, "--tokenizer", str(run / "tokenizer"), "--data", data]
    words += ["--out", str(tmp_path / "out.json" if command == "evaluate" else tmp_path / "out")]
    assert run_command(words) == 3
    refused = capsys.readouterr().err
    assert "03.png" in refused and "--max-skip leaves unreadable images of the data out" in refused
    assert run_command([*words, "--max-skip", "10%"]) == 4
    assert f"skipped {images / 'test' / '03.png'}: truncated" in capsys.readouterr().out
    assert run_command([*words, "--max-skip", "1"]) == 4
    page = tmp_path / "out" / "report.html"
    if command == "evaluate":
        page = imagetok.report(tmp_path / "out.json", page).path
    assert "(1 left out as unreadable)" in page.read_text()
    assert run_command([*words, "--max-skip", "9%"]) == 3  # of ten images


def test_measures_are_those_of_the_other_images(images, run, tmp_path):
    """And a record of them is not comparable with one of all."""
    left = tmp_path / "left"
    left.mkdir()
    for file in sorted((images / "test").glob("*.png")):
        if file.name != "03.png":
            (left / file.name).write_bytes(file.read_bytes())
    data, tokenizer = f"folder:test,root={images}", run / "tokenizer"
    found = imagetok.evaluate(tokenizer, data, max_skip=1, out=tmp_path / "a.json", progress=False)
    expected = imagetok.evaluate(tokenizer, left, progress=False)
    assert [image.index for image in found.skipped] == [3]
    assert dict(found.measures) == {**expected.measures, "skipped": 1}
    stored = json.loads((tmp_path / "a.json").read_bytes())
    assert stored["subject"]["skipped"][0]["reason"] == "truncated"
    one, two = (
        imagetok.diagnose(tokenizer, place, max_skip=skip, progress=False)
        for place, skip in ((data, 1), (str(left), 0))
    )
    assert one.measures == two.measures
    assert len(one.skipped) == 1 and not two.skipped
    with pytest.raises(InputError, match="3 of 3 images cannot be read"):
        imagetok.evaluate(tokenizer, _all_damaged(tmp_path), max_skip=1, progress=False)


def _all_damaged(folder: Path) -> Path:
    (folder / "damaged").mkdir()
    for i in range(3):
        (folder / "damaged" / f"{i}.png").write_bytes(b"no picture")
    return folder / "damaged"


@pytest.mark.slow  # processes
def test_compare_leaves_unreadable_images_out(images, settings, tmp_path, capsys):
    words = [word for text in settings for word in ("--set", text)]
    words = ["compare", "digits/edvae", *words, "--seeds", "0", "--out", str(tmp_path / "out")]
    assert run_command(words) == 3
    assert "03.png: truncated" in capsys.readouterr().out
    assert run_command([*words, "--max-skip", "1"]) == 4
    assert f"skipped {images / 'test' / '03.png'}: truncated" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "comparison.json").read_bytes())
    assert record["methods"][0]["mean"]["skipped"] == 1
    assert (
        "1 other could not be read and is left out"
        in (tmp_path / "out" / "comparison.md").read_text()
    )
