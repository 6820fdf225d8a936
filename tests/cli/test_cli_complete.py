"""`imagetok complete`: images finished from their upper rows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sampling_parts import make_prior_folder

from cli.main import _run
from imagetok import Tokenizer
from imagetok.codes.decode import decode_in_batches, save_images
from imagetok.images import to_unit_range
from prior import Prior


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("priors"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("one", "two"):
        pixels = random.integers(0, 256, (6, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return [folder / "one.png", folder / "two.png"]


def complete(source: Path, out: Path, photos: list[Path], *more: str) -> int:
    images = [word for photo in photos for word in ("--image", str(photo))]
    return _run(["complete", "--prior", str(source), *images, "--out", str(out), *more])


def test_it_writes_what_the_prior_completes(source, photos, tmp_path, capsys):
    out = tmp_path / "done"
    how = ["--keep-rows", "2", "-n", "3", "--seed", "4", "--temperature", "0.9"]
    assert complete(source, out, photos, *how) == 0
    assert "3 completions of 2 image(s)" in capsys.readouterr().out
    prior = Prior.from_pretrained(source)
    tokenizer = Tokenizer.from_pretrained(source / "tokenizer")
    record = json.loads((out / "completions.json").read_text())
    for i, photo in enumerate(photos):
        pixels = torch.from_numpy(np.array(Image.open(photo)))[None, None]
        codes = tokenizer.encode(to_unit_range(pixels))
        completed = prior.sample(3, given=codes, keep_rows=2, seed=4, temperature=0.9)
        save_images(decode_in_batches(tokenizer, completed), tmp_path / "expected", range(3))
        for m in range(3):
            found = out / f"{3 * i + m:06d}.png"
            assert found.read_bytes() == (tmp_path / "expected" / f"{m:06d}.png").read_bytes()
        expected = [*prior.log_prob(codes), *prior.log_prob(completed)]
        assert record["log_prob"][i] == pytest.approx([float(v) for v in expected], abs=1e-3)
    assert (record["keep_rows"], record["labels"], record["seed"]) == (2, [-1], 4)
    assert record["images"] == [str(photo) for photo in photos]


def test_an_image_is_completed_the_same_beside_others_and_in_any_number(source, photos, tmp_path):
    how = ("--keep-rows", "1", "--label", "all")
    assert complete(source, tmp_path / "two", photos, *how, "-n", "4") == 0
    assert complete(source, tmp_path / "one", photos[1:], *how, "-n", "1") == 0
    second = (tmp_path / "two" / "000004.png").read_bytes()
    assert (tmp_path / "one" / "000000.png").read_bytes() == second


def test_all_rows_kept_give_the_reconstruction(source, photos, tmp_path):
    assert complete(source, tmp_path / "x", photos[:1], "--keep-rows", "3", "-n", "2") == 0
    first, second = ((tmp_path / "x" / f"{m:06d}.png").read_bytes() for m in range(2))
    assert first == second
    words = ["reconstruct", "--tokenizer", str(source / "tokenizer"), str(photos[0])]
    assert _run([*words, "--out", str(tmp_path / "r.png")]) == 0
    drawn = np.array(Image.open(tmp_path / "x" / "000000.png"))
    both = np.array(Image.open(tmp_path / "r.png"))
    scale = both.shape[1] // (6 + 2 * 2)
    assert np.array_equal(
        both[scale * 10 : scale * 16 : scale, scale * 2 : -scale * 2 : scale], drawn
    )


def test_the_pictures_show_each_image_what_is_kept_and_the_completions(source, photos, tmp_path):
    assert complete(source, tmp_path / "x", photos, "--keep-rows", "2", "-n", "3") == 0
    picture = np.array(Image.open(tmp_path / "x" / "completions.png"))
    scale = 64 // 6
    small = picture[::scale, ::scale]
    assert small.shape == (2 * 8 + 2, 5 * 8 + 2)
    cells = [
        [small[2 + 8 * i : 8 + 8 * i, 2 + 8 * j : 8 + 8 * j] for j in range(5)] for i in (0, 1)
    ]
    for i, photo in enumerate(photos):
        assert np.array_equal(cells[i][0], np.array(Image.open(photo)))
        assert (cells[i][1][4:] == 127).all() and not (cells[i][1][:4] == 127).all()
        for m in range(3):
            drawn = np.array(Image.open(tmp_path / "x" / f"{3 * i + m:06d}.png"))
            assert np.array_equal(cells[i][2 + m], drawn)
    heat_map = np.array(Image.open(tmp_path / "x" / "likelihood.png"))
    assert heat_map.shape == (scale * (4 * 8 + 2), scale * (5 * 8 + 2), 3)


def test_refusals(source, photos, tmp_path, capsys):
    def refused(code: int, text: str, images: list[Path], *more: str) -> None:
        assert complete(source, tmp_path / "x", images, *more) == code
        error = capsys.readouterr().err
        assert text in error and "Traceback" not in error
        assert not (tmp_path / "x").exists()

    refused(2, "expected 0 to 3 (the codes are 3 x 3), found 4", photos, "--keep-rows", "4")
    refused(2, "found -1", photos, "--keep-rows=-1")
    refused(2, "greedy", photos, "--keep-rows", "1", "--temperature", "0")
    refused(2, "found '7'", photos, "--keep-rows", "1", "--label", "7")
    refused(3, "nowhere.png", [Path("nowhere.png")], "--keep-rows", "1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert complete(source, tmp_path / "full", photos, "--keep-rows", "1") == 2
    assert "not empty" in capsys.readouterr().err
