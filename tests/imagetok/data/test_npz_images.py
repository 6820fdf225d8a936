"""Images of an npz file, mapped or compressed, with or without classes; refusals of others."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.format import write_array_header_1_0

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
    "no rows": (PIXELS[:, :0], None, r"found \(7, 0, 4, 3\)"),
    "a number": (np.uint8(3), None, r"found \(\), uint8"),
    "objects": (np.array([{}]), None, "cannot be read"),
    "classes": (PIXELS, np.arange(6), "expected 7 whole numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_arrays_are_refused(case, tmp_path):
    pixels, classes, told = REFUSED[case]
    np.savez(tmp_path / "a.npz", *([pixels] if classes is None else [pixels, classes]))
    with pytest.raises(InputError, match=told):
        NpzImages(tmp_path / "a.npz", CONTRACT)


def header(shape: tuple[int, ...]) -> bytes:
    """The header of an npy file of bytes."""
    file = io.BytesIO()
    write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def write_member(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)


def test_no_file_of_images_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", other=PIXELS)
    np.savez(tmp_path / "c.npz", PIXELS)
    whole = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.npz").write_bytes(whole.replace(b"(7, 5, 4, 3)", b"(9, 5, 4, 3)"))
    (tmp_path / "e.npz").write_bytes(whole.replace(b"(7, 5, 4, 3)", b"(True, 5, 4)"))
    write_member(tmp_path / "f.npz", header((10**15, 5, 4, 3)))  # must not be allocated
    encrypted = bytearray(whole)
    for at in (6, whole.index(b"PK\x01\x02") + 8):  # flags of the member and in the directory
        encrypted[at] |= 1
    (tmp_path / "g.npz").write_bytes(encrypted)
    unknown = bytearray(whole)
    unknown[whole.index(b"PK\x01\x02") + 10] = 77  # the method of compression
    (tmp_path / "h.npz").write_bytes(unknown)
    write_member(tmp_path / "i.npz", header((7, 5, 4, 3)) + PIXELS.tobytes())
    deflated = bytearray((tmp_path / "i.npz").read_bytes())
    deflated[40:60] = b"\xff" * 20
    (tmp_path / "i.npz").write_bytes(deflated)
    for name in "abcdefghi":
        with pytest.raises(InputError, match=f"{name}.npz: cannot be read"):
            NpzImages(tmp_path / f"{name}.npz", CONTRACT)
