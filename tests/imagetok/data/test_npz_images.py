"""Images of an npz file, mapped or compressed, with or without classes; refusals of others."""

import numpy as np
import pytest

from imagetok.data.npz_images import NpzImages
from imagetok.data.sample_folder import open_samples
from imagetok.errors import InputError
from imagetok.images import ImageContract

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
CONTRACT = ImageContract(height=5, width=4)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_and_classes_are_those_of_the_arrays(save, tmp_path):
    save(tmp_path / "a.npz", PIXELS, np.arange(7) % 3)
    images = open_samples(tmp_path / "a.npz", CONTRACT)
    assert isinstance(images, NpzImages) and len(images) == 7
    assert isinstance(images.images, np.memmap) == (save is np.savez)
    batch = images.read([3, 0, 3])
    assert np.array_equal(batch.images.movedim(1, -1).numpy(), PIXELS[[3, 0, 3]])
    assert batch.labels.tolist() == [0, 0, 0] and batch.indices.tolist() == [3, 0, 3]
    assert images.read([4, 5]).labels.tolist() == [1, 2]


def test_without_classes_there_are_no_labels(tmp_path):
    np.savez(tmp_path / "a.npz", PIXELS)
    images = NpzImages(tmp_path / "a.npz", CONTRACT)
    assert images.read([0, 6]).labels.tolist() == [-1, -1]
    np.savez(tmp_path / "b.npz", PIXELS[::-1])
    assert NpzImages(tmp_path / "b.npz", CONTRACT).identity() != images.identity()


REFUSED = {
    "floats": (PIXELS / 255, None, "found .* float64"),
    "channels": (PIXELS[..., :1], None, r"expected images of shape \(N, H, W, 3\)"),
    "none": (PIXELS[:0], None, r"expected images of shape"),
    "objects": (np.array([{}]), None, "cannot be read"),
    "classes": (PIXELS, np.arange(6), "expected 7 whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_arrays_are_refused(case, tmp_path):
    pixels, classes, told = REFUSED[case]
    np.savez(tmp_path / "a.npz", *([pixels] if classes is None else [pixels, classes]))
    with pytest.raises(InputError, match=told):
        NpzImages(tmp_path / "a.npz", CONTRACT)


def test_no_file_of_images_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", other=PIXELS)
    np.savez(tmp_path / "c.npz", PIXELS)
    whole = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.npz").write_bytes(whole.replace(b"(7, 5, 4, 3)", b"(9, 5, 4, 3)"))
    for name in "abcd":
        with pytest.raises(InputError, match=f"{name}.npz: cannot be read"):
            NpzImages(tmp_path / f"{name}.npz", CONTRACT)
