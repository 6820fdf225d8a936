"""`imagetok.init`: what is chosen for a folder of pictures, and what is never replaced."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imagetok
import prior
from imagetok.analysis import starting_config
from imagetok.analysis.starting_config import (
    StartingConfig,
    allowance,
    choose_image,
    steps_for,
    with_comments,
)
from imagetok.config import load_config, read_yaml
from imagetok.data import FolderConfig
from imagetok.data.folder_survey import DECODED, survey_folder
from imagetok.errors import ConfigError, InputError
from imagetok.training.config import NO_SKIPS, TokenizerRun


def put(folder: Path, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
    """Pictures of these sizes (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for i, (width, height) in enumerate(sizes):
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "my photos" / "cat", [(20, 20)] * 6)
    put(tmp_path / "my photos" / "dog", [(20, 20)] * 6)
    return Path("my photos")


@pytest.mark.parametrize(
    ("sizes", "mode", "expected"),
    [
        ([(300, 300)] * 4, "RGB", (64, 64, "rgb")),
        ([(300, 200)] * 4, "RGB", (64, 96, "rgb")),  # height, width
        ([(200, 300)] * 4, "RGB", (96, 64, "rgb")),
        ([(70, 700)] * 4, "RGB", (128, 64, "rgb")),  # cropped
        ([(300, 200), (200, 300)] * 2, "RGB", (64, 64, "rgb")),  # no common shape
        ([(33, 40)] * 19 + [(5, 5)], "RGB", (40, 32, "rgb")),  # one of twenty may be smaller
        ([(33, 40)] * 3 + [(17, 20)] * 2, "RGB", (20, 16, "rgb")),
        ([(8, 8)] * 4, "RGB", (16, 16, "rgb")),
        ([(28, 28)] * 4, "L", (16, 16, "grey")),
    ],
)
def test_size_shape_and_mode_follow_from_the_pictures(tmp_path, sizes, mode, expected):
    survey = survey_folder(FolderConfig(root=str(put(tmp_path / "p", sizes, mode))))
    image, groups = choose_image(survey)
    assert (image.height, image.width, image.mode) == expected
    factor = 2 ** (groups - 1)
    assert image.height % factor == image.width % factor == 0
    asked, _ = choose_image(survey, 128)
    assert min(asked.height, asked.width) == 128


def test_more_pictures_get_more_steps_within_limits():
    steps = [steps_for(count, 32) for count in (2, 270, 5000, 20_000, 10**7)]
    assert steps == sorted(steps)
    assert len({*steps}) > 2
    assert all(s % 100 == 0 for s in steps)


def test_configs_are_written_that_load_and_commands_that_lead_to_samples(photos):
    start = imagetok.init(photos, size=16, device="cpu", progress=False)
    assert (start.config, start.prior_config) == (
        Path("my-photos.yaml"),
        Path("my-photos-gpt.yaml"),
    )
    config = load_config(start.config, TokenizerRun)
    assert config.data == FolderConfig(root="my photos")
    assert config.tokenizer.image == start.image
    assert config.max_skip == NO_SKIPS
    assert not any("--max-skip" in command for command in start.commands)
    (quantizer,) = config.tokenizer.levels
    assert quantizer.kind == "vqvae-ema"
    assert (quantizer.init, quantizer.reset is not None) == ("kmeans", True)
    assert start.estimate.facts.images == start.survey.train == 11
    assert start.estimate.seconds > 0
    programs = [shlex.split(command)[:2] for command in start.commands]
    expected = ("train", "encode", "encode", "train", "sample")
    assert programs == [["imagetok", name] for name in expected]
    assert read_yaml(start.prior_config)["tokenizer"] == "runs/my-photos/tokenizer"
    assert not Path("runs").exists()
    text = str(start)
    for part in (
        "12 pictures",
        "2: cat (6), dog (6)",
        "16 x 16 rgb",
        "tokenizer, about",
        "on disk",
    ):
        assert part in text


def test_the_time_of_the_prior_is_measured_on_codes_of_its_form(photos):
    start = prior.init(photos, size=16, device="cpu", progress=False)
    facts, codes = start.prior_estimate.facts, start.estimate.facts
    assert (facts.num_codes, facts.grids) == (codes.num_codes, codes.grids)
    assert (facts.images, facts.held_out) == (11, 1)
    assert facts.class_names == ("cat", "dog")
    assert facts.steps == read_yaml(start.prior_config)["train"]["steps"]
    rows = start.rows()
    assert list(rows)[-3:] == ["tokenizer, about", "prior, about", "codes, about"]
    assert "prior, about" not in StartingConfig.durations(start)
    assert not Path("runs").exists()


def test_damaged_pictures_are_allowed_for_in_config_and_commands(photos):
    file = photos / "cat" / "0.png"
    file.write_bytes(file.read_bytes()[:200])
    start = imagetok.init(photos, size=16, device="cpu", progress=False)
    assert [d.path for d in start.survey.damaged] == [str(file)]
    assert load_config(start.config, TokenizerRun).max_skip == "2"  # and one that comes later
    encodes = [c for c in start.commands if " encode " in c]
    assert len(encodes) == 2
    assert all(command.endswith("--max-skip 2") for command in encodes)


def corrupt(file: Path) -> None:
    """Change a PNG in the middle, so that only decoding it fails."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("decoded", [DECODED, 0], ids=["all are decoded", "only in the steps"])
def test_damage_that_only_decoding_shows_is_allowed_for_too(photos, monkeypatch, decoded):
    monkeypatch.setattr(
        starting_config, "survey_folder", lambda data: survey_folder(data, decode=decoded)
    )
    corrupt(photos / "cat" / "0.png")
    depths = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    Image.fromarray(depths).save(photos / "dog" / "depth.tif")
    start = imagetok.init(photos, size=16, device="cpu", progress=False)
    assert [(Path(d.path).name, d.reason) for d in start.survey.damaged] == [
        ("0.png", "unreadable"),
        ("depth.tif", "unsupported_mode"),
    ]
    assert len(start.survey.short_sides) == 11
    assert load_config(start.config, TokenizerRun).max_skip == "3"


def test_a_folder_of_which_not_all_is_decoded_has_room_for_damage(photos):
    data = FolderConfig(root=str(photos))
    assert allowance(survey_folder(data)) == "0"
    part = survey_folder(data, decode=6)
    assert allowance(part) == "1"
    assert part.rows()["decoded"] == "6 of them, evenly spread"


def test_tables_and_tars_are_refused_with_the_command_that_trains_on_them(tmp_path):
    for name, key in (("a b.csv", "table, file"), ("b.tar", "webdataset, shards")):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="found a file; ") as refusal:
            imagetok.init(tmp_path / name)
        words = shlex.split(str(refusal.value).partition("holds: ")[2])
        assert words[:4] == ["imagetok", "train", "cifar10/vqvae-ema-cpu", "--set"]
        assert words[4] == f"data={{source: {key}: {tmp_path / name}}}"
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="found a file; check the path"):
        imagetok.init(tmp_path / "a.txt")


def test_nothing_is_replaced(photos):
    for name in ("my-photos.yaml", "my-photos-gpt.yaml"):
        Path(name).write_text("mine")
        with pytest.raises(ConfigError, match=f"{name}: exists already"):
            imagetok.init(photos, size=16, device="cpu")
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    Path("runs/my-photos").mkdir(parents=True)
    Path("runs/my-photos/file").touch()
    with pytest.raises(ConfigError, match="runs/my-photos: not empty"):
        imagetok.init(photos, size=16, device="cpu")
    assert sorted(Path().iterdir()) == [Path("my photos"), Path("runs")]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "edvea"}, r"method: expected one of .*did you mean 'edvae'"),
        ({"size": 50}, "size: expected one of 16, 32"),
        ({"holdout": 1.5}, "holdout"),
    ],
)
def test_refusals_name_what_is_expected(photos, options, says):
    with pytest.raises(ConfigError, match=says):
        imagetok.init(photos, device="cpu", **options)


def test_a_folder_in_which_nothing_can_be_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = put(tmp_path / "p", [(20, 20)] * 3)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="none can be read"):
        imagetok.init("p")
    with pytest.raises(InputError, match="expected a folder of images"):
        imagetok.init("absent")


def test_comments_stand_above_their_keys():
    text = "a: 1\nb:\n  c: 2\n  cd: 3\n"
    found = with_comments(text, {"": "head", "  c:": "two\nlines", "a:": "first"})
    assert found == "# head\n# first\na: 1\nb:\n  # two\n  # lines\n  c: 2\n  cd: 3\n"
