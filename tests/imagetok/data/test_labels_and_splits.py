"""One meaning of labels and of split names, whatever the source and the spelling."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import characters, integers, lists, sampled_from, text
from PIL import Image

from imagetok.data import NO_LABEL, ImageDataset, describe, open_images, parse_spec
from imagetok.data.labels_and_splits import SPLIT_NAMES, number_labels, split_of, whole_number
from imagetok.data.table import read_table
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

CONTRACT = ImageContract(height=8, width=8)
SPELLINGS: list[Callable[[int], str]] = [
    str,
    lambda n: f" {n}\t",
    lambda n: f"{n}.0",
    lambda n: f"{n}.",
    lambda n: f"+{n}" if n >= 0 else str(n),
    lambda n: f"{'-' if n < 0 else ''}00{abs(n)}",
    lambda n: f"{n}e0",
    lambda n: f"{n}0E-1",
]


def where(i: int) -> str:
    return f"line {i + 2}"


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), (number, 50, 100)).save(file, "PNG")
    return file.getvalue()


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))


def opened(spec: str) -> ImageDataset:
    return open_images(*parse_spec(spec), CONTRACT)


def labels(dataset: ImageDataset) -> list[int]:
    return dataset.read(range(len(dataset))).labels.tolist()


def files(dataset: ImageDataset, root: Path) -> list[str]:
    paths = [dataset.path_of(i) for i in range(len(dataset))]
    return [path.removeprefix(f"{root}/") for path in paths]


@given(number=integers(-9999, 9999), spelling=sampled_from(SPELLINGS))
def test_an_integer_is_one_in_any_spelling(number, spelling):
    assert whole_number(spelling(number)) == number


@given(lists(integers(-1, 300), min_size=1), lists(sampled_from(SPELLINGS), min_size=1))
def test_whole_numbers_are_labels_in_any_spelling(numbers, spellings):
    texts = [spellings[i % len(spellings)](number) for i, number in enumerate(numbers)]
    assert number_labels(texts, where) == number_labels(list(map(str, numbers)), where)
    assert number_labels(texts, where)[0] == numbers


@pytest.mark.parametrize("text", ["1,000", "1_0", "3.5", "1e-1", "0x10", "٣", "-", "", ".", "inf"])
def test_other_texts_are_no_integers(text):
    assert whole_number(text) is None


@pytest.mark.parametrize("missing", ["", "nan", "NaN", " ", "-1", "-1.0"])
def test_a_missing_label_changes_no_other(missing):
    assert number_labels(["10", missing, "2"], where)[0] == [10, NO_LABEL, 2]
    assert number_labels(["dog", missing, "cat"], where) == ([1, NO_LABEL, 0], ("cat", "dog"))
    assert number_labels([missing], where) == ([NO_LABEL], ())


def test_names_with_spaces_around_them_are_one_class():
    assert number_labels(["cat", " cat", "dog "], where) == ([0, 0, 1], ("cat", "dog"))


@pytest.mark.parametrize(
    "texts, message",
    [
        (
            ["0", "1", "cat", "2"],
            "line 4: expected a whole number, as 3 other labels are, found 'c",
        ),
        (["0", "n/a", "1.5", "2"], r"line 3: .* found 'n/a' \(and 1 more\); correct it, leave it"),
        (["cat", "3", "dog", "", "4.5"], "line 3: expected a name, as 3 other .* found '3'"),
        (["0", "-2"], "line 3: expected a label below 65,536, or -1 for none, found '-2'"),
        (["0", "65536"], "line 3: expected a label below 65,536"),
        (["0", "1e999999999"], "line 3: expected a label below 65,536"),
    ],
)
def test_a_stray_word_or_number_is_refused_with_its_line(texts, message):
    with pytest.raises(InputError, match=message):
        number_labels(texts, where)


LABELS = ["10", "3.0", " 2", "", "+1", "nan"]
NUMBERS = [10, 3, 2, NO_LABEL, 1, NO_LABEL]


def test_tables_and_tars_read_numbers_alike(tmp_path):
    names = [f"{i}.png" for i in range(len(LABELS))]
    put(tmp_path, *names)
    rows = list(zip(names, LABELS, strict=True))
    (tmp_path / "t.csv").write_text("image,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    typed = [10, 3.0, "2", None, True + 0, float("nan")]
    records = [{"image": a, "label": b} for a, b in zip(names, typed, strict=True)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, label in rows:
            for member, data in (
                (name, (tmp_path / name).read_bytes()),
                (name.replace("png", "cls"), label.encode()),
            ):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for file in ("t.csv", "t.jsonl", "t.tar"):
        dataset = opened(str(tmp_path / file))
        assert labels(dataset) == NUMBERS
        assert dataset.class_names == tuple(map(str, range(11)))
    (tmp_path / "t.csv").write_text("image,label\n0.png,0\n1.png,none\n2.png,1\n")
    with pytest.raises(InputError, match=r"t\.csv: line 3: expected a whole number"):
        opened(str(tmp_path / "t.csv"))


@given(
    text(characters(codec="utf-8"), max_size=9),
    sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n"),
)
def test_a_line_ends_where_the_format_says(tmp_path_factory, words, end):
    root = tmp_path_factory.mktemp("table")
    caption = f"{words}{end}{words}"
    put(root, "1.png", "2.png")
    rows = [["image", "label", "caption"], ["1.png", 7, caption], ["2.png", 4, caption]]
    with (root / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (root / "t.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    for name in ("t.csv", "t.jsonl"):
        assert labels(opened(str(root / name))) == [7, 4]
        assert [row.values["caption"] for row in read_table(root / name)] == [caption] * 2


def test_unquoted_characters_do_not_end_a_row(tmp_path):
    put(tmp_path, "1.png")
    for end in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e":
        text = f"image,label,caption\n1.png,7,two{end}lines\n"
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        assert labels(opened(str(tmp_path / "t.csv"))) == [7]


def test_split_names_are_known_in_any_case():
    for split, names in SPLIT_NAMES.items():
        for name in names:
            assert {split_of(name), split_of(name.upper()), split_of(f" {name.title()}")} == {split}
    assert split_of("trains") is split_of("") is split_of("extra") is None


@given(
    train=sampled_from(SPLIT_NAMES["train"]),
    other=sampled_from(SPLIT_NAMES["val"] + SPLIT_NAMES["test"]),
    change=sampled_from([str, str.upper, str.title]),
)
def test_folders_of_splits_are_no_classes(tmp_path_factory, train, other, change):
    root, (a, b) = tmp_path_factory.mktemp("folder"), (change(train), change(other))
    put(
        root,
        *(f"{part}/{kind}/{i}.png" for part in (a, b) for kind in ("cat", "dog") for i in "12"),
    )
    test = opened(f"folder:test,root={root}")
    assert test.class_names == ("cat", "dog")
    assert files(test, root) == [f"{b}/{kind}/{i}.png" for kind in ("cat", "dog") for i in "12"]
    assert labels(test) == [0, 0, 1, 1]
    assert {file.split("/")[0] for file in files(opened(f"folder:train,root={root}"), root)} == {a}
    assert len(opened(str(root))) == 8


def test_train_alone_is_no_class_and_a_part_of_it_is_held_out(tmp_path):
    put(tmp_path, *(f"Train/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)))
    train, test = (opened(f"folder:{split},root={tmp_path}") for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert len(test) == 2 and len(train) == 18
    assert sorted(files(train, tmp_path) + files(test, tmp_path)) == files(
        opened(str(tmp_path)), tmp_path
    )


def test_held_out_folders_without_train_have_no_train(tmp_path):
    put(tmp_path, *(f"{part}/{kind}/1.png" for part in ("val", "test") for kind in ("cat", "dog")))
    assert opened(f"folder:test,root={tmp_path}").class_names == ("cat", "dog")
    assert len(opened(f"folder:validation,root={tmp_path}")) == 2
    with pytest.raises(ConfigError, match="expected one of the splits test, val, all; found 'trai"):
        opened(f"folder:train,root={tmp_path}")


@pytest.mark.parametrize(
    "names, message",
    [
        (["train/a/1.png", "training/a/2.png"], "one name of the split train, found 'train' and"),
        (["train/a/1.png", "val/a/1.png", "dev/a/1.png"], "one name of the split val, found 'dev'"),
        (["test/1.png", "cat/1.png", "dog/1.png"], "splits or classes, found test/.* beside 'cat'"),
        (["train/a/1.png", "cat/1.png"], r"either splits or classes.* train=\. if all of them"),
        (["train/a/1.png", "cover.png"], "either splits or classes, found train/.* beside 'cover"),
    ],
)
def test_what_may_be_splits_or_classes_is_refused(tmp_path, names, message):
    put(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        opened(str(tmp_path))


def test_keys_say_which_folders_are_splits(tmp_path):
    put(tmp_path, "train/a/1.png", "cat/a/1.png", "cat/b/2.png", "test/cat/1.png")
    spec = f"folder:{{}},root={tmp_path},train=cat"
    assert files(opened(spec.format("test") + ",test=train"), tmp_path) == ["train/a/1.png"]
    assert opened(spec.format("test") + ",test=train").class_names == ("a", "b")
    assert len(opened(spec.format("test"))) == 1
    assert opened(f"folder:all,root={tmp_path},train=.").class_names == ("cat", "test", "train")
    rest = opened(f"folder:train,root={tmp_path},test=test")
    assert files(rest, tmp_path) == ["cat/a/1.png", "cat/b/2.png", "train/a/1.png"]
    assert labels(opened(f"folder:all,root={tmp_path},test=test")) == [0, 0, 1, 0]
    with pytest.raises(InputError, match="nothing: expected the folder of test=, found no folder"):
        opened(spec.format("test") + ",test=nothing")


def test_a_class_of_trains_beside_other_vehicles_is_a_class(tmp_path):
    put(tmp_path, "bus/1.png", "car/1.png", "train/1.png")
    assert opened(str(tmp_path)).class_names == ("bus", "car", "train")


@pytest.mark.parametrize("names", [("test1", "train"), ("Val_Set", "train2017")])
def test_classes_that_are_named_like_splits_are_warned_of(tmp_path, caplog, names):
    put(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
    assert opened(str(tmp_path)).class_names == names
    (said,) = caplog.messages
    assert "test1" in said or "'Val_Set', 'train2017'" in said
    caplog.clear()
    opened(f"folder:all,root={tmp_path},train={names[1]},test={names[0]}")
    assert not caplog.messages


def test_images_beside_the_splits_are_counted(tmp_path, caplog):
    put(tmp_path, "train/a/1.png", "val/a/1.png", "extra/1.png", "extra/2.png", "cover.png")
    assert len(opened(str(tmp_path))) == 2
    assert "3 images beside the folders of its splits are left out" in caplog.text


def test_a_table_names_its_splits_by_a_column_or_by_folders(tmp_path):
    names = ["Training/1.png", "Training/2.png", "dev/3.png"]
    put(tmp_path, *names)
    table = tmp_path / "t.csv"
    for rows in (
        "image,Split\n" + "".join(f"{n},{n.split('/')[0]}\n" for n in names),
        "image\n" + "".join(f"{n}\n" for n in names),
        "image,set\n" + "".join(f"{n},first\n" for n in names),
        "image\n" + "".join(f"{tmp_path}/{n}\n" for n in names),
    ):
        table.write_text(rows)
        spec = f"table:{{}},file={table},label="
        assert files(opened(spec.format("test")), tmp_path) == ["dev/3.png"]
        assert files(opened(spec.format("train")), tmp_path) == names[:2]
    table.write_text("image,split\nTraining/1.png,train\nTraining/2.png,tset\n")
    with pytest.raises(InputError, match=r"line 3: expected one of the splits .*found 'tset'"):
        opened(f"table:train,file={table},label=")
    table.write_text("image,split\nTraining/1.png,train\nTraining/2.png,train\n")
    assert len(opened(f"table:test,file={table},label=")) == 1


def pack(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names):
            data, info = picture(number), tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", ["{}-000.tar", "photos-{}-000.tar", "{}/000.tar"])
def test_tars_named_as_splits_are_the_splits(tmp_path, form):
    for number, part in enumerate(("train", "validation")):
        pack(tmp_path / form.format(part), *(f"{number}{i}.png" for i in range(4)))
    pattern = str(tmp_path / form.format("*"))
    test = opened(f"webdataset:test,shards={pattern}")
    assert [path.split("/")[-1] for path in files(test, tmp_path)] == [
        f"1{i}.png" for i in range(4)
    ]
    assert len(opened(f"webdataset:train,shards={pattern}")) == 4
    assert len(opened(pattern)) == 8
    pack(tmp_path / form.format("more"), "9.png")
    with pytest.raises(ConfigError, match="all tars or none to be named as splits, found"):
        opened(pattern)


def test_folders_in_a_tar_are_its_splits(tmp_path):
    pack(tmp_path / "photos.tar", "train/a.png", "train/b.png", "val/c.png")
    test = opened(f"webdataset:test,shards={tmp_path}/photos.tar")
    assert files(test, tmp_path) == ["photos.tar/val/c.png"]


def test_a_spec_names_a_split_as_any_source_does():
    for written, split in (("Validation", "val"), ("training", "train"), ("TEST", "test")):
        config, found = parse_spec(f"celeba:{written}")
        assert (found, describe(config, found)) == (split, f"celeba:{split}")
    with pytest.raises(ConfigError, match="train, test, all; found 'dev'"):
        parse_spec("digits:dev")
