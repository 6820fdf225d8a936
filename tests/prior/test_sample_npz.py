"""Samples in an npz file: the images of the folder, as numpy reads them, in little memory."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sampling_parts import make_prior_folder

import prior
from cli.main import _run
from imagetok.errors import ConfigError, InputError, StoppedError
from imagetok.images import to_stored
from imagetok.io.npz_files import StreamedArray, write_npz
from prior import sample_npz


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("priors"))


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory) -> Path:
    return make_prior_folder(tmp_path_factory.mktemp("priors"), num_classes=0)


def test_the_array_has_the_images_and_classes_of_the_folder(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sample_npz, "PART", 3)
    file = tmp_path / "new" / "samples.npz"
    drawn = prior.generate(source, 7, seed=2, out=tmp_path / "out", npz=file, progress=False)
    with np.load(file) as arrays:
        images, classes = arrays["arr_0"], arrays["arr_1"]
    assert (images.shape, images.dtype) == ((7, 6, 6, 3), np.uint8)
    grey = to_stored(drawn.images).movedim(1, -1).numpy()
    assert np.array_equal(images, np.repeat(grey, 3, axis=3))
    assert classes.dtype == np.int64 and classes.tolist() == drawn.labels
    assert zipfile.ZipFile(file).testzip() is None
    record = json.loads(zipfile.ZipFile(file).read("samples.json"))
    assert record == json.loads((tmp_path / "out" / "samples.json").read_bytes())


@pytest.mark.parametrize("n", [2**31, 2**60])
@pytest.mark.parametrize("form", ["npz", "out"])
def test_more_samples_than_can_be_listed_are_refused(source, tmp_path, n, form):
    with pytest.raises(ConfigError, match="expected at most 2,147,483,647 samples"):
        prior.generate(source, n, progress=False, **{form: tmp_path / "a"})
    assert not list(tmp_path.iterdir())


def test_a_file_with_the_record_of_something_else_is_refused(source, tmp_path):
    file = tmp_path / "a.npz"
    for content in ("[]", '{"num_images": "few"}'):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("samples.json", content)
        with pytest.raises(InputError, match=r"(?s)a.npz: samples.json: .*damaged"):
            prior.generate(source, 2, npz=file, progress=False)


def test_the_file_alone_is_the_same_and_leaves_no_folder(source, tmp_path):
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    prior.generate(source, 5, out=tmp_path / "out", npz=one, progress=False)
    alone = prior.generate(source, 5, npz=other, progress=False)
    assert one.read_bytes() == other.read_bytes()
    assert alone.folder is None and alone.num_new == 5
    again = prior.generate(source, 5, npz=other, progress=False)
    assert again.num_new == 0
    in_memory = prior.generate(source, 5, progress=False).images
    assert torch.equal(to_stored(again.images), to_stored(in_memory))
    more = prior.generate(source, 6, npz=other, progress=False)
    assert len(more.images) == 6 and torch.equal(more.images[:5], again.images)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "other.npz", "out"]


def test_a_stopped_file_is_continued(source, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise StoppedError("stopped", 15)

    file = tmp_path / "a.npz"
    with monkeypatch.context() as patch:
        patch.setattr("prior.generation.write_samples", stop)
        with pytest.raises(StoppedError):
            prior.generate(source, 4, npz=file, progress=False)
    assert not file.exists() and len(list((tmp_path / "a.npz.parts").glob("0*.png"))) == 4
    made = prior.generate(source, 4, npz=file, progress=False)
    assert made.num_new == 0 and [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_without_classes_there_is_one_array(source, unconditional, tmp_path):
    for folder, label, name in [(unconditional, None, "a"), (source, ["a", "none"], "b")]:
        prior.generate(folder, 2, label=label, npz=tmp_path / f"{name}.npz", progress=False)
        with np.load(tmp_path / f"{name}.npz") as arrays:
            assert "arr_0" in arrays.files and "arr_1" not in arrays.files


def test_other_files_are_not_overwritten(source, tmp_path):
    file = tmp_path / "a.npz"
    prior.generate(source, 4, npz=file, progress=False)
    with pytest.raises(ConfigError, match=r"has other samples: num_images 4, asked for 3"):
        prior.generate(source, 3, npz=file, progress=False)
    with pytest.raises(ConfigError, match=r"has other samples: seed 0, asked for 1"):
        prior.generate(source, 4, seed=1, npz=file, progress=False)
    np.savez(tmp_path / "b.npz", np.zeros(3))
    with pytest.raises(ConfigError, match=r"b.npz: exists and has no samples.json"):
        prior.generate(source, 3, npz=tmp_path / "b.npz", progress=False)
    with pytest.raises(ConfigError, match="found a folder"):
        prior.generate(source, 3, npz=tmp_path, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_the_command_needs_one_place(source, tmp_path, capsys):
    words = ["sample", "--prior", str(source), "-n", "3", "--device", "cpu"]
    assert _run([*words, "--npz", str(tmp_path / "a.npz")]) == 0
    assert f"3 images in {tmp_path / 'a.npz'}" in capsys.readouterr().out
    assert _run([*words, "--npz", str(tmp_path / "b.npz"), "--shards", str(tmp_path / "c")]) == 2
    assert "expected either --out DIR or --npz FILE" in capsys.readouterr().err


def test_an_array_is_written_part_by_part(tmp_path):
    def parts():
        for i in range(3):
            assert not (tmp_path / "x.npz").exists()
            yield np.full((2, 5), i, dtype=np.int64)

    write_npz(tmp_path / "x.npz", {"arr_0": StreamedArray((6, 5), np.dtype("uint8"), parts())})
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_0"].tolist() == [[i] * 5 for i in (0, 0, 1, 1, 2, 2)]
