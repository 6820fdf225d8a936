"""What is found in a folder of pictures: counts, sizes, classes, splits, copies, damage."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagetok.data import FolderConfig
from imagetok.data.folder_survey import FolderSurvey, find_copies, survey_folder
from imagetok.errors import InputError


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of ten pictures, and one of everything that real folders hold."""
    for label, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for i in range(10):
            picture(10 * label + i).save(tmp_path / name / f"{i}.jpg")
    picture(50).save(tmp_path / "cover.jpg")
    picture(51, (12, 9)).save(tmp_path / "cat" / "tiny.png")
    (tmp_path / "dog" / "copy of 3.jpg").write_bytes((tmp_path / "dog" / "3.jpg").read_bytes())
    whole = (tmp_path / "cat" / "5.jpg").read_bytes()
    (tmp_path / "cat" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").write_text("")
    return tmp_path


def survey(root: Path, **options) -> FolderSurvey:
    return survey_folder(FolderConfig(root=str(root), **options))


def test_everything_in_a_folder_is_counted_once(folder):
    found = survey(folder)
    assert len(found.files) == 23 == found.train + found.held_out
    assert dict(found.classes) == {"cat": 11, "dog": 11}
    assert found.without_label == (str(folder / "cover.jpg"),)
    assert [d.path for d in found.damaged] == [str(folder / "cat" / "5.jpg")]
    assert found.copies == ((str(folder / "dog" / "3.jpg"), str(folder / "dog" / "copy of 3.jpg")),)
    assert found.others == (str(folder / "notes.txt"),)
    assert found.smaller_than(30) == [str(folder / "cat" / "tiny.png")]
    assert found.short_sides == [9, *[30] * 21]
    assert not found.is_grey
    text = str(found)
    for part in ("23 pictures", "JPEG (21), PNG (1)", "cat (11)", "notes.txt", "5.jpg (truncated)"):
        assert part in text


def test_splits_are_those_of_the_source(tmp_path):
    for split in ("train", "test"):
        for i in range(4):
            path = tmp_path / split / "only" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(i if i == 2 else 10 * i + len(split)).save(path)
    found = survey(tmp_path)
    assert (found.train, found.held_out) == (4, 4)
    assert found.copies_across == 1  # picture 2 is in both
    assert "1 of them in both splits" in str(found)


def test_splits_that_no_run_uses_are_named(tmp_path):
    for split, count in (("Train", 4), ("VAL", 3), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            picture(i).save(tmp_path / split / f"{i}.png")
    found = survey(tmp_path)
    assert found.rows()["splits"] == "4 to train on, 2 held out, 3 not used (in VAL)"


def test_a_share_is_held_out_where_no_folder_is(folder):
    assert survey(folder, holdout=0.5).held_out in (11, 12)


def test_grey_folders_and_equal_sizes_are_seen(tmp_path):
    for i in range(3):
        picture(i).convert("L").save(tmp_path / f"{i}.png")
    found = survey(tmp_path)
    assert found.is_grey
    assert found.classes == {}
    assert "40 x 30" in str(found)
    assert "aspect ratios" not in found.rows()


def test_copies_are_equal_in_every_byte(tmp_path):
    buffer = io.BytesIO()
    picture(0).save(buffer, "png")
    other = buffer.getvalue()[:-1] + b"\0"
    for name, data in [("a", buffer.getvalue()), ("b", other), ("c", buffer.getvalue())]:
        (tmp_path / name).write_bytes(data)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert find_copies([a, b, c]) == ((a, c),)
    assert find_copies([a, b]) == ()


def test_of_many_copies_the_first_are_named(tmp_path):
    for i in range(40):
        picture(0).save(tmp_path / f"{i:02d}.png")
    found = survey(tmp_path)
    assert [len(group) for group in found.copies] == [40]
    named = str(found.rows()["copies"])
    assert named.startswith("39: ") and "04.png = ..." in named and "05.png" not in named


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected images"):
        survey(tmp_path)
    picture(0).save(tmp_path / "only.png")
    with pytest.raises(InputError, match=r"at least 2 pictures, one to train on .* found 1; add"):
        survey(tmp_path)
