"""Folders of images: labels, splits, and what is wrong with them by name."""

import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from imagetok.data import NO_LABEL, FileImages, FolderConfig, ImageError, open_images
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

CONTRACT = ImageContract(height=8, width=8)


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (number, 50, 100)).save(root / name)


def opened(root: Path, split: str = "all", **options) -> FileImages:
    dataset = open_images(FolderConfig(root=str(root), **options), split, CONTRACT)
    assert isinstance(dataset, FileImages)
    return dataset


def labels(dataset: FileImages) -> list[int]:
    return dataset.read(range(len(dataset))).labels.tolist()


def test_subfolders_are_classes_in_sorted_order(tmp_path):
    put(tmp_path, "dog/b.png", "cat/deep/a.PNG", "cat/z.JpEg", "cat/.hidden.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    dataset = opened(tmp_path)
    assert dataset.files == ["cat/deep/a.PNG", "cat/z.JpEg", "dog/b.png"]
    assert dataset.class_names == ("cat", "dog")
    assert labels(dataset) == [0, 0, 1]
    batch = dataset.read([2, 0])
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.images[0, :, 4, 4].tolist() == [0, 50, 100]
    assert dataset.path_of(2) == str(tmp_path / "dog" / "b.png")


def test_a_flat_folder_is_unlabelled(tmp_path):
    put(tmp_path, "b.png", "a.bmp", "sub/c.gif")
    dataset = opened(tmp_path)
    assert dataset.files == ["a.bmp", "b.png", "sub/c.gif"]
    assert labels(dataset) == [NO_LABEL] * 3
    assert dataset.num_classes is None


def test_a_picture_beside_the_folders_of_classes_takes_no_labels_away(tmp_path, caplog):
    put(tmp_path, *(f"{kind}/{i}.png" for kind in "ab" for i in range(3)), "cover.jpg")
    dataset = opened(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert labels(dataset) == [0, 0, 0, 1, 1, 1, NO_LABEL]
    (said,) = caplog.messages
    assert "1 of 7 images is beside" in said and said.endswith(str(tmp_path / "cover.jpg"))
    for split in ("train", "test"):  # every split has the same classes
        assert opened(tmp_path, split, holdout=0.3).class_names == ("a", "b")
    assert caplog.messages == [said]  # once, however many splits are opened


def test_a_picture_in_a_split_beside_its_classes_has_no_label(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/1.png", "train/x.png", "val/a/2.png", "val/b/2.png")
    train, test = opened(tmp_path, "train"), opened(tmp_path, "test")
    assert dict(zip(train.files, labels(train), strict=True))["train/x.png"] == NO_LABEL
    assert labels(test) == [0, 1]


def test_a_mostly_flat_folder_is_unlabelled_and_says_so(tmp_path, caplog):
    put(tmp_path, "a.png", "b.png", "more/c.png", "more/d.png")
    assert opened(tmp_path).class_names == ()
    assert "so that no image has a label" in caplog.text
    caplog.clear()
    (tmp_path / "more" / "c.png").unlink()
    (tmp_path / "more" / "d.png").unlink()
    assert labels(opened(tmp_path)) == [NO_LABEL] * 2
    assert not caplog.messages


def test_held_out_splits_are_fixed_disjoint_and_complete(tmp_path):
    put(tmp_path, *(f"{kind}/{i}.png" for kind in "ab" for i in range(15)))
    train, test, both = (opened(tmp_path, split) for split in ("train", "test", "all"))
    assert len(test) == 3
    assert sorted(train.files + test.files) == both.files
    assert test.files == opened(tmp_path, "test").files
    assert train.files == sorted(train.files)
    assert len(opened(tmp_path, "test", holdout=0.5)) == 15
    assert labels(test) == ["ab".index(file[0]) for file in test.files]


@pytest.mark.parametrize("folders", [("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_split_folders_are_the_splits(tmp_path, folders):
    put(tmp_path, *(f"{folder}/{kind}/{folder}.png" for folder in folders for kind in "ab"))
    put(tmp_path, "train/c/only-here.png")
    train, test, both = (opened(tmp_path, split) for split in ("train", "test", "all"))
    assert labels(train) == [0, 1, 2]
    assert {file.split("/")[0] for file in test.files} == {folders[-1]}
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert len(both) == 2 * len(folders) + 1
    if "val" in folders:
        assert opened(tmp_path, "val").files == ["val/a/val.png", "val/b/val.png"]
    else:
        with pytest.raises(ConfigError, match="train, test, all; found 'val'"):
            opened(tmp_path, "val")


def test_a_folder_without_split_folders_has_no_val(tmp_path):
    put(tmp_path, "a.png", "trains/b.png")
    with pytest.raises(ConfigError, match="found 'val'"):
        opened(tmp_path, "val")


def test_links_are_followed_but_never_in_circles(tmp_path):
    put(tmp_path, "elsewhere/a.png")
    (tmp_path / "root" / "class").mkdir(parents=True)
    (tmp_path / "root" / "class" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "class" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "itself").symlink_to("itself")
    assert opened(tmp_path / "root").files == ["class/linked/a.png"]


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"nowhere: expected a folder of images, found nothing"):
        opened(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"a\.png: expected a folder of images, found a file"):
        opened(tmp_path / "a.png")


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected images in split 'all', found none; check"):
        opened(tmp_path)
    for name in ("a.txt", "b.TXT", "c", ".hidden.png"):
        (tmp_path / name).write_text("nothing here")
    with pytest.raises(InputError, match=r"found none among its files \(2 \.txt, 1 without one\)"):
        opened(tmp_path)


def test_one_image_cannot_be_split(tmp_path):
    put(tmp_path, "a.png")
    with pytest.raises(InputError, match=r"at least 2 images .* found 1; use split all"):
        opened(tmp_path, "train")
    assert len(opened(tmp_path)) == 1


def test_an_unreadable_image_is_named_when_it_is_read(tmp_path):
    put(tmp_path, "a.png", "b.png")
    path = tmp_path / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    dataset = opened(tmp_path)
    assert len(dataset.read([0]).labels) == 1
    with pytest.raises(ImageError) as caught:
        dataset.read([0, 1])
    assert str(path) in str(caught.value)
    assert (caught.value.path, caught.value.reason) == (dataset.path_of(1), "truncated")


def test_real_tiny_imagenet(tmp_path, real_data):
    archive = real_data / "tiny-imagenet-subset" / "tiny-imagenet-20class.zip"
    if not archive.is_file():
        pytest.skip("IMAGETOK_TEST_DATA has no tiny-imagenet-subset/")
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path, [n for n in names if n.startswith("val/")])
        packed.extractall(tmp_path, [n for n in names if n.startswith("train/")][::50])
    test, train = opened(tmp_path, "test"), opened(tmp_path, "train")
    assert torch.bincount(torch.tensor(labels(test))).tolist() == [50] * 20
    assert len(train) == 200
    assert test.read(range(1000)).images.float().std() > 50


def test_a_broken_link_is_a_missing_image(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nothing.png")
    dataset = opened(tmp_path)
    assert dataset.contents()[1] == ("b.png", -1)
    assert len(dataset.identity()) == 64
    with pytest.raises(ImageError) as caught:
        dataset.read([1])
    assert caught.value.reason == "missing"
