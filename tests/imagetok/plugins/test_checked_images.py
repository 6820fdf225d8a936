"""What a registered data source returns is checked, because its faults give wrong numbers."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import imagetok
from cli.main import _run
from imagetok.data import DataSection, DigitsConfig, ImageBatch, ImageDataset, open_images
from imagetok.data.checked_images import CheckedImages
from imagetok.data.image_decoding import ImageError
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

DIGITS = Path(__file__).parents[3] / "configs" / "digits"
GREY = ImageContract(mode="grey", height=4, width=6)
MAPS = ImageContract(mode="labels", height=4, width=6, num_classes=3, interpolation="nearest")
SOURCE = "data source 'plain' (test_checked_images:Plain): "


class Plain(DataSection):
    source: Literal["plain"] = "plain"


class PlainImages(ImageDataset):
    """Five images of one value each; `change` is what is broken."""

    class_names = ("a", "b")
    change: Callable[[ImageBatch], Any] = staticmethod(lambda batch: batch)
    length: Any = 5
    says: Any = "plain/1"

    def __init__(self, config: Plain, split: str, contract: ImageContract):
        self.name, self.split, self.contract = config.source, split, contract

    def __len__(self) -> int:
        return self.length

    def identity(self) -> str:
        return self.says

    def path_of(self, index: int) -> str:
        return f"plain.bin#{index}"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        chosen = torch.tensor(indices, dtype=torch.int64)
        form = self.contract
        one = chosen.to(torch.uint8)[:, None, None, None] % 3
        images = one.repeat(1, form.channels, form.height, form.width)
        return self.change(ImageBatch(images, chosen % 2, chosen))


def opened(contract: ImageContract = GREY, **attributes: Any) -> ImageDataset:
    """A source whose dataset class has these attributes."""
    broken = {k: staticmethod(v) if k == "change" else v for k, v in attributes.items()}
    imagetok.register(Plain, type("PlainImages", (PlainImages,), broken))
    return open_images(Plain(), "train", contract)


def reading(change: Callable[[ImageBatch], Any], contract: ImageContract = GREY) -> str:
    with pytest.raises(InputError) as refusal:
        opened(contract, change=change).read([0, 3])
    assert not isinstance(refusal.value, ImageError)  # which `encode` would count as one bad file
    assert str(refusal.value).startswith(SOURCE + "plain:train: read: ")
    return str(refusal.value).removeprefix(SOURCE + "plain:train: read: ")


def test_a_good_source_is_as_it_was_and_reaches_other_processes():
    dataset = opened()
    own = PlainImages(Plain(), "train", GREY)
    assert isinstance(dataset, CheckedImages)
    assert (len(dataset), dataset.identity(), dataset.sample()) == (5, "plain/1", own.sample())
    assert (dataset.name, dataset.split, dataset.class_names) == ("plain", "train", ("a", "b"))
    assert (dataset.num_classes, dataset.path_of(3)) == (2, "plain.bin#3")
    received = pickle.loads(pickle.dumps(open_registered()))
    for one, other in zip(received.read([4, 0, 4]), own.read([4, 0, 4]), strict=True):
        assert torch.equal(one, other)
    assert dataset.read([]).images.shape == (0, 1, 4, 6)
    assert opened(MAPS).read([2]).images.unique().tolist() == [2]
    assert opened(class_names=(), change=lambda b: b._replace(labels=b.labels * 0 - 1)).read([1])


def open_registered() -> ImageDataset:
    imagetok.register(Plain, PlainImages)
    return open_images(Plain(), "train", GREY)


def test_a_built_in_source_is_not_wrapped():
    assert not isinstance(open_images(DigitsConfig(), "test", GREY), CheckedImages)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: tuple(b), "expected an imagetok.data.ImageBatch, found tuple"),
        (lambda b: None, "expected an imagetok.data.ImageBatch, found NoneType"),
        (lambda b: b._replace(images=b.images.numpy()), "images: expected a tensor, found ndarray"),
        (
            lambda b: b._replace(images=b.images / 255),
            "images: expected torch.uint8 of shape (2, 1, 4, 6), found torch.float32 of shape (2",
        ),
        (lambda b: b._replace(images=b.images[:1]), "of shape (2, 1, 4, 6), found torch.uint8 of"),
        (lambda b: b._replace(images=b.images.mT), "found torch.uint8 of shape (2, 1, 6, 4)"),
        (lambda b: b._replace(images=b.images[:, 0]), "found torch.uint8 of shape (2, 4, 6)"),
        (lambda b: b._replace(labels=b.labels.int()), "labels: expected torch.int64 of shape (2,)"),
        (lambda b: b._replace(labels=b.labels[:1]), "found torch.int64 of shape (1,)"),
        (
            lambda b: b._replace(labels=b.labels + 1),
            "labels: expected [0, 2), by the number of class_names, or -1 for none, found 2",
        ),
        (lambda b: b._replace(labels=b.labels - 2), "or -1 for none, found -2"),
        (lambda b: b._replace(indices=b.indices.tolist()), "indices: expected a tensor, found lis"),
        (
            lambda b: b._replace(indices=torch.arange(2)),
            "indices: expected those that were asked for, 3 at place 1, found 1",
        ),
    ],
)
def test_a_batch_that_breaks_the_interface_is_refused(change, said):
    assert said in reading(change)


def test_labels_without_class_names_and_classes_of_no_map_are_refused():
    with pytest.raises(InputError, match="labels: expected -1, without class_names, found 1"):
        opened(class_names=()).read([0, 1])
    assert reading(lambda b: b._replace(images=b.images + 3), MAPS) == (
        "images: expected classes in [0, 3), found 3"
    )


@pytest.mark.parametrize(
    ("attributes", "error", "said"),
    [
        ({"length": 0}, InputError, "expected one image or more in split train, found none"),
        ({"length": 2.5}, ConfigError, "len: expected an int >= 1, found an error: 'float' object"),
        ({"length": -1}, ConfigError, "len: expected an int >= 1, found an error: __len__() sh"),
        ({"class_names": ["a"]}, ConfigError, "class_names: expected a tuple of str, found ['a']"),
        ({"class_names": (0, 1)}, ConfigError, "class_names: expected a tuple of str, found (0, "),
        ({"num_classes": 3}, ConfigError, "num_classes: expected 2, the number of class_names, fo"),
        ({"__init__": lambda self, *_: None}, ConfigError, "name: expected a non-empty str, found"),
    ],
)
def test_a_dataset_that_breaks_the_interface_is_not_opened(untyped, attributes, error, said):
    with pytest.raises(error) as refusal:
        opened(**attributes)
    assert str(refusal.value).startswith(SOURCE + said)


@pytest.mark.parametrize("says", ["", None, 3])
def test_an_identity_that_is_no_text_is_refused(untyped, says):
    with pytest.raises(ConfigError) as refusal:
        opened(says=says).identity()
    assert str(refusal.value).startswith(SOURCE + "identity: expected a non-empty str")


def test_the_hash_of_some_images_does_not_hide_a_broken_batch():
    with pytest.raises(InputError, match=r"images: expected torch\.uint8"):
        opened(change=lambda b: b._replace(images=b.images / 1)).sample()


def test_a_broken_source_ends_a_command_with_one_message(plugin, tmp_path, capsys):
    text = (
        plugin()
        .read_text()
        .replace("labels = torch.tensor([place", "labels = torch.tensor([9 + place")
    )
    words = ["--plugin", str(plugin("mine.py", text)), "train", str(DIGITS / "vqvae.yaml")]
    words += ["--set", "data={source: gradients}", "--set", "train.steps=1"]
    assert _run([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 3
    error = capsys.readouterr().err
    assert "data source 'gradients' (imagetok_plugin_mine:GradientsConfig): gradients:t" in error
    assert "labels: expected [0, 4), by the number of class_names, or -1 for none, found 1" in error
