"""Images as callers give them: arrays, PIL images, Datasets of their own, and refusals."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from imagetok.data import DigitsConfig, ShapesConfig, open_image, open_images, preprocess
from imagetok.data.image_decoding import ImageError
from imagetok.data.in_memory import pixels_of
from imagetok.data.inputs import open_inputs, warn_of_training_images
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

RGB = ImageContract(mode="rgb", height=8, width=8)
GREY = ImageContract(mode="grey", height=8, width=8)
LABELS = ImageContract(mode="labels", height=4, width=4, interpolation="nearest", num_classes=3)


@pytest.fixture
def pictures() -> np.ndarray:
    """(5, 12, 10, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)


class Own(Dataset):
    """A Dataset as users write them."""

    def __init__(self, images, labels=None, classes=None):
        self.images, self.labels = images, labels
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return image if self.labels is None else (image, self.labels[index])


def forms(pictures: np.ndarray) -> dict[str, object]:
    tensor = torch.from_numpy(pictures).movedim(-1, 1)
    images = [Image.fromarray(p) for p in pictures]
    return {
        "array": pictures,
        "array, channels first": np.moveaxis(pictures, -1, 1),
        "array of float64": pictures / 255,
        "tensor": tensor,
        "tensor of floats": tensor / 255,
        "tensor, channels last": torch.from_numpy(pictures),
        "PIL images": images,
        "list of arrays": list(pictures),
        "list of tensors": list(tensor),
        "tuple": tuple(images),
    }


@pytest.mark.parametrize("contract", [RGB, GREY], ids=["rgb", "grey"])
def test_all_forms_of_the_same_pixels_are_the_same_images(pictures, contract):
    expected = torch.stack([preprocess(p, contract) for p in pictures])
    opened = {name: open_inputs(data, contract) for name, data in forms(pictures).items()}
    for name, (dataset, _) in opened.items():
        batch = dataset.read(range(5))
        assert torch.equal(batch.images, expected), name
        assert batch.labels.tolist() == [-1] * 5
        assert batch.indices.tolist() == list(range(5))
        assert dataset.class_names == ()
    assert len({dataset.identity() for dataset, _ in opened.values()}) == 1
    assert opened["array"].source == "arrays:all"
    assert opened["PIL images"].source == "images:all"


def test_grey_arrays(pictures):
    grey = pictures[..., 0]
    forms = [grey, grey[..., None], grey[:, None], torch.from_numpy(grey), grey.astype("f4") / 255]
    opened = [open_inputs(form, GREY).dataset for form in forms]
    assert len({dataset.identity() for dataset in opened}) == 1
    expected = torch.stack([preprocess(p, GREY) for p in grey])
    assert all(torch.equal(dataset.read(range(5)).images, expected) for dataset in opened)


def test_the_identity_changes_with_pixels_order_and_number(pictures):
    changed = pictures.copy()
    changed[4, 11, 9, 2] ^= 1
    seen = [
        open_inputs(data, RGB).dataset.identity()
        for data in (pictures, changed, pictures[::-1], pictures[:4])
    ]
    assert len(set(seen)) == 4
    assert open_inputs(pictures, GREY).dataset.identity() == seen[0]  # before it is brought to form


def test_a_pil_image_is_what_its_file_is(pictures, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pictures[0]).save(path, exif=exif, quality=95)
    transparent = tmp_path / "transparent.png"
    alpha = np.dstack([pictures[1], np.arange(120, dtype=np.uint8).reshape(12, 10)])
    Image.fromarray(alpha).save(transparent)
    for file in (path, transparent):
        assert np.array_equal(pixels_of(Image.open(file)), open_image(file))
    assert np.array_equal(pixels_of(alpha), open_image(transparent))
    files = open_inputs([path, transparent], RGB).dataset
    images = open_inputs([Image.open(path), Image.open(transparent)], RGB).dataset
    assert torch.equal(files.read([0, 1]).images, images.read([0, 1]).images)
    assert torch.equal(
        open_inputs(Image.open(path), RGB).dataset.read([0]).images[0], files.read([0]).images[0]
    )


def test_label_maps(pictures):
    maps = np.random.default_rng(0).integers(0, 3, (6, 4, 4))
    expected = torch.from_numpy(maps)[:, None].to(torch.uint8)
    for data in (maps, torch.from_numpy(maps), [Image.fromarray(m.astype("u1")) for m in maps]):
        assert torch.equal(open_inputs(data, LABELS).dataset.read(range(6)).images, expected)
    maps[2, 1, 1] = 3
    with pytest.raises(ImageError, match=r"classes in \[0, 3\), found 3") as refused:
        open_inputs(maps, LABELS).dataset.read([2])
    assert refused.value.reason == "unknown_class"
    with pytest.raises(ImageError, match="expected a label map"):
        open_inputs(pictures, LABELS).dataset.read([0])


def test_a_dataset_keeps_labels_and_class_names(pictures):
    images = [Image.fromarray(p) for p in pictures]
    labels = [0, np.int64(1), torch.tensor(1), None, -1]
    own = Own(images, labels, classes=["cat", "dog"])
    dataset, source = open_inputs(own, RGB)
    assert source == "Own:all"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.read(range(5)).labels.tolist() == [0, 1, 1, -1, -1]
    spelled = Own(images, [0.0, "dog", np.float32(1), float("nan"), None], classes=["cat", "dog"])
    assert open_inputs(spelled, RGB).dataset.read(range(5)).labels.tolist() == [0, 1, 1, -1, -1]
    for label in ("emu", 2.0, ""):
        with pytest.raises(
            ImageError, match=r"label in \[0, 2\), -1 for none, or the name of a cl"
        ):
            open_inputs(Own(images, [label] * 5, classes=["cat", "dog"]), RGB).dataset.read([0])
    for wrapped, count in ((Subset(own, [1, 0]), 2), (ConcatDataset([own, own]), 10)):
        dataset = open_inputs(wrapped, RGB).dataset
        assert (dataset.class_names, len(dataset)) == (("cat", "dog"), count)
    with pytest.raises(
        ConfigError, match=r"same classes in all .* 2 \(cat, dog\), found 1 \(emu\)"
    ):
        open_inputs(ConcatDataset([own, Own(images, classes=["emu"])]), RGB)
    named = open_inputs(Own(images, labels), RGB, class_names=["a", "b"]).dataset
    assert named.read([1]).labels.tolist() == [1]
    none = open_inputs(own, RGB, class_names=()).dataset
    assert (none.class_names, none.read([1]).labels.tolist()) == ((), [-1])
    assert open_inputs(Own(images), RGB).dataset.class_names == ()
    pairs = list(zip(images, labels, strict=True))
    assert open_inputs(pairs, RGB, class_names=["a", "b"]).dataset.read([1]).labels.tolist() == [1]
    for data in (Own(images, labels), pairs):
        with pytest.raises(ConfigError, match="pass class_names"):
            open_inputs(data, RGB)


def test_the_identity_of_a_dataset(pictures):
    own = Own(pictures, [0, 1, 0, 1, 0], classes=["a", "b"])
    identity = open_inputs(own, RGB).dataset.identity()
    again = Own(pictures.copy(), [0, 1, 0, 1, 0], classes=["a", "b"])
    assert open_inputs(again, RGB).dataset.identity() == identity
    relabelled = Own(pictures, [0, 1, 0, 1, 1], classes=["a", "b"])
    renamed = Own(pictures, [0, 1, 0, 1, 0], classes=["a", "c"])
    shorter = Subset(own, range(4))
    for other in (relabelled, renamed, shorter, Own(pictures[::-1], [0, 1, 0, 1, 0], ["a", "b"])):
        assert open_inputs(other, RGB).dataset.identity() != identity
    claims = [(own, "mine"), (relabelled, "mine"), (own, "mine, again"), (shorter, "mine")]
    given = [open_inputs(d, RGB, identity=claim).dataset.identity() for d, claim in claims]
    assert given[0] == given[1]
    assert len(set(given)) == 3


def test_random_augmentation_is_refused_unless_an_identity_is_given(pictures):
    class Augmented(Own):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            return self.images[index] ^ np.uint8(self.reads)

    dataset = open_inputs(Augmented(pictures), RGB).dataset
    with pytest.raises(ConfigError, match=r"Augmented:all\[4\].*augmentation.*identity="):
        dataset.identity()
    assert open_inputs(Augmented(pictures), RGB, identity="v1").dataset.identity()


def test_items_that_fail_are_image_errors(pictures):
    class Failing(Own):
        def __getitem__(self, index):
            if index == 1:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    dataset = open_inputs(
        Failing([*pictures[:2], "text", pictures[0] / 1.0, {}], [0, 0, 0, 7, 0], ["a"]), RGB
    ).dataset
    reasons = {}
    for index in range(5):
        try:
            dataset.read([index])
        except ImageError as error:
            assert error.path == f"Failing:all[{index}]"
            assert str(error).startswith(error.path)
            reasons[index] = (error.reason, str(error))
    assert sorted(reasons) == [1, 2, 3, 4]
    assert reasons[1][0] == "unreadable" and "disk on fire" in reasons[1][1]
    assert reasons[2][0] == "unsupported_mode" and "found builtins.str" in reasons[2][1]
    assert "divide pixels in 0..255 by 255" in reasons[3][1]
    assert dataset.identity()  # also of one with items that fail
    label = open_inputs(Own(pictures, [9] * 5, ["a"]), RGB).dataset
    with pytest.raises(ImageError, match=r"a label in \[0, 1\).*found 9"):
        label.read([0])


def test_a_dataset_is_read_by_one_thread_at_a_time(pictures):
    class Fragile(Own):
        busy = 0

        def __getitem__(self, index):
            self.busy += 1
            assert self.busy == 1
            item = super().__getitem__(index)
            self.busy -= 1
            return item

    dataset = open_inputs(Fragile(pictures), RGB).dataset
    failures = []

    def read() -> None:
        try:
            dataset.read([i % 5 for i in range(200)])
        except ImageError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_specs_configs_and_datasets_of_ours(tmp_path):
    spec = open_inputs("digits:test", GREY)
    assert spec.source == "digits:test"
    config = open_inputs(DigitsConfig(), GREY, "test")
    assert config.source == "digits:test"
    ours = open_images(DigitsConfig(), "test", GREY)
    assert open_inputs(ours, GREY) == (ours, "digits:test")
    with pytest.raises(InputError, match=r"expected rgb images of 8 x 8 pixels.*found grey"):
        open_inputs(ours, RGB)
    for data in ("digits:test", DigitsConfig(), ours):
        with pytest.raises(ConfigError, match="identity, class_names: expected arrays"):
            open_inputs(data, GREY, identity="mine")


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    "data",
    [7, None, {"a": 1}, Endless(), DataLoader(Own([])), object()],
    ids=["int", "None", "dict", "iterable", "loader", "object"],
)
def test_what_is_no_images_is_refused(data, untyped):
    with pytest.raises(InputError, match=r"expected images: a path, a spec.*found"):
        open_inputs(data, RGB)


@pytest.mark.parametrize("shape", [(8,), (8, 8), (8, 8, 3), (1, 5, 8, 8, 3)])
def test_shapes_that_are_no_batch_are_refused(shape):
    with pytest.raises(InputError, match="expected images of shape"):
        open_inputs(np.zeros(shape, dtype=np.uint8), RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), dtype=np.int32), "expected uint8 pixels.*found int32"),
        (np.full((8, 8, 3), 2.0), r"expected floating point pixels in \[0, 1\], found \[2, 2\]"),
        (np.full((8, 8, 3), np.nan), "found \\[nan, nan\\]"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"with C = 1, 3 or 4, found \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "at least one pixel"),
    ],
    ids=["int32", "range", "nan", "channels", "empty"],
)
def test_pixels_that_have_no_meaning_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        pixels_of(image)


def test_half_floats_and_booleans():
    half = torch.tensor([[[0.0, 1.0]]]).repeat(3, 1, 1)
    assert pixels_of(half.bfloat16()).tolist() == [[[0] * 3, [255] * 3]]
    assert pixels_of(np.array([[False, True]])).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("data", "warned"),
    [
        ("digits", "use digits:test"),
        ("shapes,count=4", "use shapes:test,count=4"),
        (ShapesConfig(count=4), "use shapes:test,count=4"),
        ("digits:train", None),
        ("digits:test", None),
        ("digits:all", None),
    ],
)
def test_measuring_training_images_without_naming_them_is_said(data, warned, caplog):
    warn_of_training_images(data, open_inputs(data, RGB).source)
    assert bool(caplog.messages) == (warned is not None)
    assert all(message.endswith(str(warned)) for message in caplog.messages)
