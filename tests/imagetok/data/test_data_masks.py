"""Images and masks in two folders: pairs by name, one order for both, and lonely files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagetok.data import FileImages, MasksConfig, describe, open_images, parse_spec
from imagetok.errors import InputError
from imagetok.images import ImageContract

IMAGES = ImageContract(height=4, width=4)
MASKS = ImageContract(
    mode="labels", height=4, width=4, interpolation="nearest", num_classes=19, resize="cover"
)


@pytest.fixture
def faces(tmp_path) -> Path:
    """As CelebAMask-HQ: images 0.jpg to 11.jpg of 16 x 16, masks of 8 x 8 with a class each."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / "images" / f"{i}.jpg")
        mask = np.full((8, 8), i, dtype=np.uint8)
        mask[:, 4:] = 18
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def opened(root: Path, split: str, contract: ImageContract) -> FileImages:
    config = MasksConfig(images=str(root / "images"), masks=str(root / "masks"))
    dataset = open_images(config, split, contract)
    assert isinstance(dataset, FileImages)
    return dataset


@pytest.mark.parametrize("split", ["all", "train", "test"])
def test_the_contract_says_which_of_a_pair_is_read(faces, split):
    images, masks = opened(faces, split, IMAGES), opened(faces, split, MASKS)
    assert len(images) == len(masks) == {"all": 12, "train": 11, "test": 1}[split]
    pixels = images.read(range(len(images))).images[:, 0, 0, 0]
    maps = masks.read(range(len(masks))).images
    assert [round(p / 20) for p in pixels.tolist()] == maps[:, 0, 0, 0].tolist()
    assert sorted(set(maps[:, 0, :, 2:].flatten().tolist())) == [18]  # nearest: no class between
    assert masks.path_of(0) == str(faces / "masks" / Path(images.files[0]).with_suffix(".png"))
    assert images.identity() != masks.identity()


def test_splits_and_classes_are_those_of_the_folder_of_images(tmp_path):
    for name in ("train/cat/a", "train/dog/a", "val/cat/b"):
        for folder, kind in (("images", "jpg"), ("masks", "png")):
            path = tmp_path / folder / f"{name}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), 3).save(path)
    masks = opened(tmp_path, "train", MASKS)
    assert masks.files == ["train/cat/a.png", "train/dog/a.png"]
    assert masks.class_names == ("cat", "dog")
    assert masks.read([1, 0]).labels.tolist() == [1, 0]
    assert opened(tmp_path, "test", MASKS).files == ["val/cat/b.png"]


@pytest.mark.parametrize("contract", [IMAGES, MASKS])
def test_files_without_their_other_half_are_listed(faces, contract):
    (faces / "masks" / "3.png").rename(faces / "masks" / "33.png")
    with pytest.raises(InputError, match=r"images/3\.jpg has no mask\n.*masks/33\.png has no im"):
        opened(faces, "all", contract)
    for i in range(4, 12):
        (faces / "masks" / f"{i}.png").unlink()
    with pytest.raises(InputError, match="and 1 more") as caught:
        for i in range(20, 21):
            Image.new("L", (4, 4)).save(faces / "masks" / f"{i}.png")
        opened(faces, "train", contract)
    assert str(caught.value).count("has no") == 10


def test_a_name_that_is_there_twice_is_refused(faces):
    Image.new("L", (4, 4)).save(faces / "masks" / "5.bmp")
    with pytest.raises(InputError, match=r"masks: expected one file per name, found 5\.bmp and"):
        opened(faces, "all", MASKS)


def test_without_the_folder_of_masks_it_says_so(faces):
    with pytest.raises(InputError, match="expected a folder of masks, found no folder"):
        open_images(
            MasksConfig(images=str(faces / "images"), masks=str(faces / "x")), "all", IMAGES
        )


def test_the_spec_reads_back():
    config = MasksConfig(images="a", masks="b")
    assert parse_spec("masks,images=a,masks=b") == (config, "all")
    assert parse_spec(describe(config, "train")) == (config, "train")
