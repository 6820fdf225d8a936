"""Training images that are kept on the device: the same batches, decoded once."""

import os
import signal

import numpy as np
import pytest
import torch
from device_waits import GPU, Allowed, DeviceWaits
from PIL import Image
from test_resume import assert_same_run, tree
from torch._subclasses.fake_tensor import FakeTensorMode

from imagetok.config import dump_yaml, validate
from imagetok.data import ImageError, open_images, parse_spec, resident
from imagetok.data.augmentation import AugmentConfig
from imagetok.data.augmented_images import AugmentedImages, larger
from imagetok.data.resident import ResidentImages, make_resident
from imagetok.data.substitutes import SubstitutedImages
from imagetok.errors import ConfigError, StoppedError
from imagetok.images import ImageContract
from imagetok.training.config import TokenizerRun
from imagetok.training.tokenizer import train_tokenizer

CPU = torch.device("cpu")
ALLOWED = [
    Allowed(
        "_to_copy",
        "data/colours.py:_hue",
        "torchvision's adjust_hue makes its table of the colour circle for each image",
    )
]
RGB = ImageContract(mode="rgb", height=8, width=6)
CHANGES = {
    "none": None,
    "flip": AugmentConfig(horizontal_flip=True),
    "crop": AugmentConfig(horizontal_flip=True, random_crop={"side": 9}),
    "box": AugmentConfig(random_resized_crop={"side": 10}, colour_jitter={"hue": 0.1}),
    "own box": AugmentConfig(random_resized_crop={}),
}


def source(change: AugmentConfig | None):
    contract = RGB if change is None else larger(change, RGB)
    data, split = parse_spec("shapes:train,count=40")
    images = open_images(data, split, contract)
    return images if change is None else AugmentedImages(images, change, RGB, 3)


def read(dataset, indices: list[int], epochs: list[int]):
    return SubstitutedImages(dataset, 3).read_at(indices, epochs)


@pytest.mark.parametrize("name", CHANGES)
def test_batches_are_those_of_the_source(name):
    images = source(CHANGES[name])
    kept = make_resident(images, CPU, "always")
    assert kept is not None and len(kept) == 40 and kept.identity() == images.identity()
    for indices, epochs in (([3, 3, 39, 0], [0, 1, 5, 0]), ([7], [2])):
        expected, found = read(images, indices, epochs), read(kept, indices, epochs)
        for one, other in zip(expected.examples, found.examples, strict=True):
            assert torch.equal(one, other)
        assert expected.skipped == found.skipped == ()


def test_parts_cut_on_a_device_are_those_cut_on_the_cpu():
    """The other way to cut, which stands for that of a GPU."""
    from imagetok.data import augmented_images

    pictures = torch.randint(256, (5, 3, 11, 9), dtype=torch.uint8)
    corners = np.array([[0, 0], [3, 3], [1, 2], [3, 0], [0, 3]])
    expected = augmented_images._parts(pictures, corners, (8, 6))
    found = augmented_images._gathered(pictures, corners, (8, 6))
    assert torch.equal(expected, found)


def test_auto_keeps_nothing_on_a_cpu_and_never_nothing_anywhere():
    images = source(None)
    assert make_resident(images, CPU, "auto") is None
    assert make_resident(images, CPU, "never") is None


def photos(folder, sizes) -> None:
    folder.mkdir()
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_an_unreadable_image_is_substituted_as_without(tmp_path):
    photos(tmp_path / "photos", [(12, 10)] * 12)
    (tmp_path / "photos" / "5.png").write_bytes(b"no picture")
    data, _ = parse_spec(str(tmp_path / "photos"))
    images = open_images(data, "all", RGB)
    kept = make_resident(images, CPU, "always")
    order = list(range(len(images)))
    expected, found = read(images, order, [2] * len(order)), read(kept, order, [2] * len(order))
    assert [one.index for one in found.skipped] == [one.index for one in expected.skipped]
    assert len(found.skipped) == 1
    assert all(map(torch.equal, expected.examples, found.examples))
    with pytest.raises(ImageError, match=r"5\.png"):
        kept.read_at(order, [0] * len(order))


def test_pictures_of_several_sizes_are_refused_by_always_and_not_kept_by_auto(tmp_path, caplog):
    photos(tmp_path / "photos", [(12, 10)] * 40 + [(20, 10)])
    data, _ = parse_spec(str(tmp_path / "photos"))
    change = CHANGES["own box"]
    images = AugmentedImages(open_images(data, "all", larger(change, RGB)), change, RGB, 3)
    with pytest.raises(
        ConfigError,
        match=r"resident: always: .* several sizes before augment crops them; set resident=auto",
    ):
        make_resident(images, CPU, "always")


def config(resident: str, **changes: object) -> TokenizerRun:
    raw = tree(checkpoint_every=2, evaluate_every=3, **changes)
    raw["augment"] = {"horizontal_flip": True, "random_crop": {"side": 10}}
    return validate(raw | {"resident": resident}, TokenizerRun, "test")


def test_a_run_is_the_same_and_is_continued_either_way(tmp_path):
    for name in ("never", "always"):
        train_tokenizer(config(name, steps=5), tmp_path / name)
    assert_same_run(tmp_path / "never", tmp_path / "always", 5)
    train_tokenizer(config("always", steps=3), tmp_path / "changed")
    train_tokenizer(config("never", steps=5), tmp_path / "changed", resume=True)
    assert_same_run(tmp_path / "never", tmp_path / "changed", 5)


def test_the_default_leaves_no_trace_in_dumps():
    assert "resident" not in dump_yaml(config("auto"))
    assert "resident: never" in dump_yaml(config("never"))


@pytest.mark.parametrize("name", CHANGES)
def test_a_batch_on_a_gpu_does_not_wait_for_it(name):
    images = source(CHANGES[name])
    with FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty(40, 3, *before_size(name), dtype=torch.uint8, device=GPU)
        kept = ResidentImages(images, pixels, torch.empty(40, dtype=torch.int64, device=GPU), {})
        with DeviceWaits(allowed=ALLOWED):
            batch = kept.read_at([3, 3, 39, 0], [0, 1, 5, 0])
    assert all(tensor.device == GPU for tensor in batch)
    assert batch.images.shape == (4, 3, 8, 6)


def before_size(name: str) -> tuple[int, int]:
    change = CHANGES[name]
    contract = RGB if change is None else larger(change, RGB)
    return contract.height, contract.width


def test_a_signal_while_images_are_decoded_stops_the_run_and_it_goes_on_later(
    tmp_path, monkeypatch
):
    train_tokenizer(config("always", steps=3), tmp_path / "whole")
    read = AugmentedImages.read_before

    sent: list[bool] = []

    def interrupted(self, indices):
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, indices)

    def decoded(*_: object) -> None:
        raise AssertionError("all images were decoded after the signal")

    monkeypatch.setattr(AugmentedImages, "read_before", interrupted)
    monkeypatch.setattr(resident, "ResidentImages", decoded)
    with pytest.raises(StoppedError, match="stopped by SIGINT at step 0 of 3"):
        train_tokenizer(config("always", steps=3), tmp_path / "stopped")
    monkeypatch.undo()
    train_tokenizer(config("always", steps=3), tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped", 3)
