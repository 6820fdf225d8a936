"""`imagetok init`, and its commands as they are printed, on a folder as people have them."""

import json
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.init import init
from cli.main import _run
from imagetok.analysis import starting_config
from imagetok.analysis.starting_config import METHODS, SIZES
from imagetok.data.image_decoding import open_image


def picture(number: int) -> Image.Image:
    """A coloured gradient with noise, of 24 x 20 pixels."""
    draw = np.random.default_rng(number)
    rows, columns = np.mgrid[0:20, 0:24] / 24
    colours = draw.random((3, 1, 1)) + draw.normal(size=(3, 1, 1)) * np.stack([rows, columns, rows])
    noisy = colours + 0.02 * draw.normal(size=colours.shape)
    return Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Sixty pictures of two classes among what real folders hold; see `ODD`."""
    folder = tmp_path / "my photos"
    for label, name in enumerate(["sea", "sky"]):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            picture(30 * label + i).save(folder / name / f"IMG_{i:04}.JPG")
    sea, sky = folder / "sea", folder / "sky"
    for i, form in enumerate(("NFC", "NFD")):
        picture(70 + i).save(sea / unicodedata.normalize(form, "été.jpg"))
    picture(80).convert("CMYK").save(sky / "print.jpg")
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 24), dtype=np.uint16)
    Image.fromarray(deep).save(sky / "deep.png")
    picture(90).save(folder / "cover.jpg")
    (sky / "copy.jpg").write_bytes((sky / "IMG_0001.JPG").read_bytes())
    whole = (sea / "IMG_0003.JPG").read_bytes()
    (sea / "IMG_0003.JPG").write_bytes(whole[: len(whole) // 2])
    (sky / "IMG_0099.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (folder / "read me.txt").write_text("not a picture")
    monkeypatch.chdir(tmp_path)
    return folder


ODD = ("cover.jpg", "copy.jpg", "IMG_0003.JPG", "IMG_0099.HEIC", "read me.txt")
"""Files that `init` names: without a label, a copy, damaged or not readable, not a picture."""


def commands(out: str) -> list[list[str]]:
    """The commands after `next:`, as words without `imagetok`."""
    lines = out.partition("next:\n")[2].splitlines()
    return [shlex.split(line)[1:] for line in lines]


def test_init_says_what_it_found_and_what_comes_next(photos, capsys):
    assert _run(["init", "my photos", "--size", "16", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for part in (
        *ODD,
        "67 pictures",
        "sea (32)",
        "20 x 16 rgb",
        "tokenizer, about",
        "prior, about",
        "on disk",
    ):
        assert part in out
    assert [words[0] for words in commands(out)] == ["train", "encode", "encode", "train", "sample"]
    assert _run(["init", "my photos", "--size", "16", "--device", "cpu"]) == 2
    assert "my-photos.yaml: exists already" in capsys.readouterr().err


def test_options_know_what_the_function_takes():
    options = {option.name: option for option in init.params}
    assert options["method"].type.choices == tuple(METHODS)  # pyright: ignore
    assert all(str(size) in (options["size"].help or "") for size in SIZES)  # pyright: ignore


@pytest.mark.slow  # two trainings
def test_the_printed_commands_lead_to_samples_without_an_edit(photos, monkeypatch, capsys):
    monkeypatch.setattr(starting_config, "FEWEST", 20)  # steps, to be quick
    assert _run(["init", "my photos", "--size", "16", "--device", "cpu"]) == 0
    printed = commands(capsys.readouterr().out)
    codes, outputs = [], []
    for words in printed:
        codes.append(_run(words))
        outputs.append(capsys.readouterr().out)
    assert set(codes) <= {0, 4}, codes  # 4: finished, with skips inside the allowance
    assert codes[-1] == 0
    skipped = outputs[1] + outputs[2]
    assert "IMG_0003.JPG" in skipped and "IMG_0099.HEIC" in skipped
    samples = Path("runs/my-photos-gpt/samples")
    record = json.loads((samples / "samples.json").read_bytes())
    assert (record["num_images"], record["labels"]) == (16, [0, 1])
    assert open_image(samples / "000000.png").shape == (16, 20, 3)
