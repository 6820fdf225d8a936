"""Tables of images, and the sets that come as tables: Kaokore and CelebA."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2

from imagetok.data import (
    NO_LABEL,
    CelebAConfig,
    FileImages,
    ImageError,
    KaokoreConfig,
    TableConfig,
    open_images,
)
from imagetok.data.labels_and_splits import number_labels
from imagetok.data.readable import readable
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.seeding import generator

CONTRACT = ImageContract(height=8, width=8)


def put(path: Path, number: int, size: tuple[int, int] = (9, 7)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    noise = torch.randint(0, 256, shape, generator=generator(number), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path, quality=95)


@pytest.fixture
def photos(tmp_path) -> Path:
    for number, name in enumerate("abcd"):
        put(tmp_path / "photos" / f"{name}.png", number)
    return tmp_path


def table(folder: Path, text: str | bytes, split: str = "all", **options) -> FileImages:
    path = folder / options.pop("name", "photos.csv")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset = open_images(TableConfig(file=str(path), **options), split, CONTRACT)
    assert isinstance(dataset, FileImages)
    return dataset


def labels(dataset: FileImages) -> list[int]:
    return dataset.read(range(len(dataset))).labels.tolist()


NAMED = "image,label\nphotos/c.png,dog\nphotos/a.png,cat\nphotos/b.png,\n"


@pytest.mark.parametrize("text", [NAMED, NAMED.replace("\n", "\r\n"), "\ufeff" + NAMED])
def test_names_become_sorted_classes_in_the_order_of_the_table(photos, text):
    dataset = table(photos, text)
    assert dataset.files == ["photos/c.png", "photos/a.png", "photos/b.png"]
    assert dataset.class_names == ("cat", "dog")
    assert labels(dataset) == [1, 0, NO_LABEL]
    assert dataset.path_of(0) == str(photos / "photos" / "c.png")


def test_a_jsonl_file_says_the_same_as_a_csv_file(photos):
    rows = [("photos/c.png", "dog"), ("photos/a.png", "cat"), ("photos/b.png", None)]
    lines = "".join(json.dumps({"image": i, "label": x, "more": 1}) + "\n\n" for i, x in rows)
    assert table(photos, lines, name="p.jsonl").identity() == table(photos, NAMED).identity()


def test_whole_numbers_are_labels_as_they_are(photos):
    text = "file,class\na.png,7\nb.png,0\n"
    options = {"image": "file", "label": "class", "root": str(photos / "photos")}
    dataset = table(photos, text, **options)
    assert labels(dataset) == [7, 0]
    assert dataset.class_names == tuple("01234567")
    unlabelled = table(photos, text, **{**options, "label": ""})
    assert (labels(unlabelled), unlabelled.num_classes) == ([NO_LABEL] * 2, None)


def test_a_column_of_splits_is_the_splits(photos):
    text = "image,label,set\n" + "".join(
        f"photos/{name}.png,{label},{part}\n"
        for name, label, part in [("d", "x", "train"), ("a", "y", "dev"), ("b", "z", "train")]
    )
    train = table(photos, text, "train", splits="set")
    assert (train.files, labels(train)) == (["photos/d.png", "photos/b.png"], [0, 2])
    for part in ("val", "test"):  # there is no test, so val stands for it
        assert table(photos, text, part, splits="set").files == ["photos/a.png"]
    whole = text + "photos/c.png,x,test\n"
    assert table(photos, whole, "test", splits="set").files == ["photos/c.png"]
    with pytest.raises(ConfigError, match="splits=COLUMN"):
        table(photos, NAMED, "val")


def test_held_out_splits_are_disjoint_and_complete(photos):
    parts = [table(photos, NAMED, split, holdout=0.4).files for split in ("train", "test")]
    assert sorted(parts[0] + parts[1]) == [f"photos/{name}.png" for name in "abc"]
    assert len(parts[1]) == 1


@pytest.mark.parametrize(
    "text, error, message",
    [
        (
            "image,label\nphotos/a.png,x\nphotos/e.png,x\n",
            InputError,
            r"1 of 2 rows .*\n  line 3: no",
        ),
        ("image,label\nphotos/a.png,x\nphotos/a.png,x\n", InputError, "line 3: .* is listed twice"),
        ("image,label\nphotos/a.png\n", InputError, "line 2: expected 2 values, found 1"),
        ("image,label\n,x\n", InputError, "line 2: no such image: no path"),
        ("image,image\nphotos/a.png,x\n", InputError, "line 1: expected different column names"),
        ("image,label\n", InputError, "expected one row per image"),
        ("", InputError, "expected one row per image"),
        ('image,label\n"photos/a.png,x\n', InputError, r"line \d: not valid CSV"),
        (
            "path,label\nphotos/a.png,x\n",
            ConfigError,
            "expected a column 'image', found path, label",
        ),
        ("image\nphotos/a.png\n", ConfigError, "expected a column 'label', found image"),
        ("image,label\nphotos/a.png,99999999999\n", InputError, "line 2: expected a label below"),
        ("image,label\nphotos/a.png,x\n".encode("utf-16"), InputError, "expected UTF-8 text"),
    ],
)
def test_a_wrong_table_is_refused_by_line(photos, text, error, message):
    with pytest.raises(error, match=message):
        table(photos, text)


def test_a_missing_image_is_unreadable(photos, caplog):
    rows = [f"photos/{name}.png,{name}" for name in "aebc"]
    data = table(photos, "\n".join(["image,label", *rows]))
    (said,) = caplog.messages
    assert (
        "1 of 4 images missing, counted as unreadable" in said and "line 3: no such image" in said
    )
    assert data.class_names == ("a", "b", "c", "e")
    with pytest.raises(ImageError, match=r"e\.png: cannot be opened") as caught:
        data.read(range(4))
    assert caught.value.reason == "missing"
    left = readable(data, 1)
    assert len(left) == 3 and [image.index for image in left.skipped] == [1]
    assert left.read(range(3)).labels.tolist() == [0, 1, 2]


def test_of_many_wrong_lines_ten_are_shown(photos):
    rows = "".join(f"no/{i}.png,x\n" for i in range(25))
    with pytest.raises(InputError, match="25 of 25 rows are wrong") as caught:
        table(photos, "image,label\n" + rows)
    assert str(caught.value).count("no such image") == 10
    assert str(caught.value).endswith("and 15 more")


def test_an_unknown_split_and_a_missing_table_are_refused(photos):
    with pytest.raises(InputError, match=r"expected one of the splits train, .*found 'tset'"):
        table(photos, "image,label,set\nphotos/a.png,x,tset\n", splits="set")
    with pytest.raises(InputError, match=r"none\.csv: cannot be read: No such file"):
        open_images(TableConfig(file=str(photos / "none.csv")), "all", CONTRACT)
    with pytest.raises(InputError, match="line 2: expected a JSON object"):
        table(photos, '{"image": "photos/a.png", "label": 1}\n[1]\n', name="p.jsonl")


def write_kaokore(root: Path) -> None:
    """The files of the authors' download.py; one image could not be fetched."""
    rows = [(3, 0, 3, "train"), (0, 1, 0, "dev"), (5, 0, 1, "test"), (2, 1, 2, "train")]
    lines = [f"{i:08d}.jpg,{gender},{status},{part}" for i, gender, status, part in rows]
    root.mkdir()
    (root / "labels.csv").write_text("\n".join(["image,gender,status,set", *lines]) + "\n")
    for number in (0, 3, 5):
        put(root / "images_256" / f"{number:08d}.jpg", number, (256, 256))


def test_kaokore_by_gender_or_status(tmp_path, caplog):
    write_kaokore(tmp_path / "kaokore")
    config = KaokoreConfig(root=str(tmp_path / "kaokore"))
    contract = ImageContract(height=256, width=256)
    everything = open_images(config, "all", contract)
    assert "left out 1 missing of 4 images" in caplog.text
    assert everything.read(range(3)).labels.tolist() == [0, 1, 0]
    assert everything.class_names == ("male", "female")
    status = open_images(config.model_copy(update={"label": "status"}), "all", contract)
    assert status.read(range(3)).labels.tolist() == [3, 0, 1]
    assert status.class_names[3] == "commoner"
    names = {
        split: [Path(d.path_of(i)).stem for i in range(len(d))]
        for split in ("train", "val", "test")
        for d in [open_images(config, split, contract)]
    }
    assert names == {"train": ["00000003"], "val": ["00000000"], "test": ["00000005"]}
    picture = Image.open(everything.path_of(0)).convert("RGB")
    recipe = v2.Compose([v2.Resize(256), v2.CenterCrop(256), v2.PILToTensor()])
    assert torch.equal(everything[0].images, recipe(picture))


def test_kaokore_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(
        InputError, match=r"download\.py --dataset_version 1\.2 .*rois-codh"
    ) as caught:
        open_images(KaokoreConfig(root=str(tmp_path)), "train", CONTRACT)
    assert "\n" not in str(caught.value)
    write_kaokore(tmp_path / "kaokore")
    for file in (tmp_path / "kaokore" / "images_256").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"expected the images of split train .*found none"):
        open_images(KaokoreConfig(root=str(tmp_path / "kaokore")), "train", CONTRACT)


PARTS = {f"{i:06d}.jpg": part for i, part in enumerate([0, 2, 0, 1, 2, 1], 1)}


def write_celeba(root: Path) -> None:
    """The files that torchvision asks for, of six faces."""
    folder = root / "celeba"
    for number, name in enumerate(PARTS):
        put(folder / "img_align_celeba" / name, number, (178, 218))
    text = "".join(f"{name} {part}\n" for name, part in PARTS.items())
    (folder / "list_eval_partition.txt").write_text(text)
    numbers = "".join(f"{name}  1 -1\n" for name in PARTS)
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} 7\n" for name in PARTS))
    for name in ("list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba"):
        (folder / f"{name}.txt").write_text(f"6\nfirst second\n{numbers}")


class TinyCelebA(datasets.CelebA):
    """torchvision's, which knows the hashes of the whole set only."""

    def _check_integrity(self) -> bool:
        return True


@pytest.mark.parametrize(
    "split, theirs", [("train", "train"), ("val", "valid"), ("test", "test"), ("all", "all")]
)
def test_celeba_is_torchvisions(tmp_path, split, theirs):
    write_celeba(tmp_path)
    contract = ImageContract(height=64, width=64, centre_crop=140)
    ours = open_images(CelebAConfig(root=str(tmp_path)), split, contract)
    recipe = v2.Compose([v2.CenterCrop(140), v2.Resize((64, 64)), v2.PILToTensor()])
    expected = [image for image, _ in TinyCelebA(tmp_path, theirs, transform=recipe)]
    assert torch.equal(ours.read(range(len(ours))).images, torch.stack(expected))
    assert ours.num_classes is None


def test_celeba_that_is_not_there_or_incomplete_is_refused(tmp_path):
    config = CelebAConfig(root=str(tmp_path))
    with pytest.raises(InputError, match=r"found neither; download both from mmlab") as caught:
        open_images(config, "train", CONTRACT)
    assert "\n" not in str(caught.value)
    write_celeba(tmp_path)
    (tmp_path / "celeba" / "img_align_celeba" / "000003.jpg").unlink()
    with pytest.raises(InputError, match=r"line 3: no such image: .*000003\.jpg"):
        open_images(config, "train", CONTRACT)
    assert len(open_images(config, "test", CONTRACT)) == 2


def test_written_numbers_may_have_leading_zeros_and_none():
    values = ["0000000001", "0000000012", "0", "-1", ""]
    labels, classes = number_labels(values, str)
    assert labels == [1, 12, 0, NO_LABEL, NO_LABEL]
    assert len(classes) == 13
    assert number_labels(["b", "-1", "a"], str) == ([1, NO_LABEL, 0], ("a", "b"))


def test_a_name_that_no_file_can_have_is_no_image(photos):
    name = "x" * 300 + ".png"
    with pytest.raises(InputError, match="line 2: no such image"):
        table(photos, f"image,label\n{name},\n")
    celeba = photos / "celeba"
    (celeba / "img_align_celeba").mkdir(parents=True)
    (celeba / "list_eval_partition.txt").write_text(f"{name} 0\n")
    with pytest.raises(InputError, match="line 1: no such image"):
        open_images(CelebAConfig(root=str(photos)), "train", CONTRACT)
    put(photos / "images_256" / "a.png", 0)
    (photos / "labels.csv").write_text(f"image,gender,set\n{name},0,train\na.png,0,train\n")
    assert len(open_images(KaokoreConfig(root=str(photos)), "train", CONTRACT)) == 1
