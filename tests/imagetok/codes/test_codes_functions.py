"""The functions behind the commands of code datasets: what they take, return and refuse."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from code_samples import make_images, make_tokenizer, random_pixels
from PIL import Image
from torch.utils.data import Dataset

import imagetok
from imagetok.codes.results import Encoded
from imagetok.errors import ArtifactError, ConfigError, ImagetokError, InputError, ShardError

COUNT = 70  # of a micro-batch and a bit


@pytest.fixture
def pixels() -> np.ndarray:
    """(N, H, W) grey."""
    return random_pixels(COUNT)[:, 0].numpy()


class Pictures(Dataset):
    """A Dataset of one's own, of which some items fail."""

    classes = ("a", "b", "c")

    def __init__(self, pixels: np.ndarray, bad: tuple[int, ...] = ()):
        self.pixels, self.bad = pixels, bad

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        if index in self.bad:
            raise KeyError("no such picture")
        return Image.fromarray(self.pixels[index]), index % 3


def test_arrays_pil_images_and_datasets_give_the_codes_of_the_images(tokenizer, pixels, tmp_path):
    images = make_images(COUNT)
    expected = imagetok.encode(tokenizer, images, tmp_path / "ours", progress=False).dataset
    forms = {
        "array": pixels,
        "tensor": torch.from_numpy(pixels)[:, None] / 255,
        "list": [Image.fromarray(p) for p in pixels],
        "dataset": Pictures(pixels),
    }
    for name, data in forms.items():
        done = imagetok.encode(tokenizer, data, tmp_path / name, progress=False)
        assert (done.inputs, done.written, done.skipped) == (COUNT, COUNT, 0)
        for i in (0, 63, 64, COUNT - 1):
            assert np.array_equal(done.dataset[i].codes[0], expected[i].codes[0]), (name, i)
    labelled = imagetok.open_codes(tmp_path / "dataset")
    assert labelled.plan.class_names == ("a", "b", "c")
    assert [labelled[i].label for i in range(4)] == [0, 1, 2, 0]
    assert labelled.plan.source == "Pictures:all"
    # The same pixels are the same source, whatever they were held in.
    one, other = (imagetok.open_codes(tmp_path / name).plan for name in ("array", "list"))
    assert one.source_identity == other.source_identity


def test_a_rerun_continues_and_other_pixels_are_refused(tokenizer, pixels, tmp_path):
    def encode(data: np.ndarray) -> Encoded:
        return imagetok.encode(
            tokenizer, data, tmp_path / "codes", samples_per_shard=32, progress=False
        )

    encode(pixels)
    before = {p.name: p.read_bytes() for p in (tmp_path / "codes").iterdir()}
    (tmp_path / "codes" / "00001.json").unlink()
    (tmp_path / "codes" / "manifest.json").unlink()
    assert encode(pixels).num_shards == 3
    assert {p.name: p.read_bytes() for p in (tmp_path / "codes").iterdir()} == before
    with pytest.raises(ConfigError, match="holds a different code dataset:\n  source_identity"):
        encode(pixels ^ 1)


def test_items_that_fail_are_skipped_by_name_and_reason(tokenizer, pixels, tmp_path):
    data = Pictures(pixels, bad=(3, 64))
    with pytest.raises(InputError, match=r"Pictures:all\[3\].*--max-skip"):
        imagetok.encode(tokenizer, data, tmp_path / "none", progress=False)
    done = imagetok.encode(tokenizer, data, tmp_path / "codes", max_skip="5%", progress=False)
    assert (done.inputs, done.written, done.skipped) == (COUNT, COUNT - 2, 2)
    assert [(s.index, s.path, s.reason) for s in done.skips] == [
        (3, "Pictures:all[3]", "unreadable"),
        (64, "Pictures:all[64]", "unreadable"),
    ]
    assert done.dataset[3].key == 4


def test_a_dry_run_states_and_writes_nothing(tokenizer, pixels, tmp_path):
    expected = imagetok.encode(tokenizer, pixels, tmp_path / "codes", dry_run=True, limit=66)
    assert (expected.inputs, expected.num_shards) == (66, 1)
    assert expected.num_bytes > 66 * 16
    assert not (tmp_path / "codes").exists()
    assert "nothing was written" in repr(expected)


def test_a_dry_run_measures_the_codes_that_a_faster_precision_changes(tokenizer, pixels, tmp_path):
    expected = imagetok.encode(tokenizer, pixels, tmp_path / "codes", dry_run=True)
    exact, faster = (
        imagetok.encode(tokenizer, pixels[:64], tmp_path / name, precision=name).dataset
        for name in ("float32", "bfloat16")
    )
    codes = [np.concatenate([d[i].codes[0].ravel() for i in range(64)]) for d in (exact, faster)]
    assert expected.agreement == {"bfloat16": (codes[0] == codes[1]).mean()}
    assert 0.5 < expected.agreement["bfloat16"] <= 1
    assert "codes as in float32, bfloat16" in repr(expected)


def test_tf32_is_refused_on_a_cpu_before_anything_is_written(tokenizer, pixels, tmp_path):
    with pytest.raises(ConfigError, match="precision: tf32 needs a GPU"):
        imagetok.encode(tokenizer, pixels, tmp_path / "codes", precision="tf32", device="cpu")
    assert not (tmp_path / "codes").exists()


def test_the_chain_of_functions(tokenizer, tokenizer_folder, pixels, tmp_path):
    done = imagetok.encode(tokenizer_folder, pixels, str(tmp_path / "codes"), limit=66)
    assert f"{tmp_path / 'codes'}" in repr(done) and "perplexity" in done._repr_html_()
    decoded = imagetok.decode(tokenizer_folder, done.dataset, tmp_path / "png")
    assert (decoded.num_images, decoded.num_new, len(decoded.files)) == (66, 66, 66)
    assert imagetok.decode(tokenizer, tmp_path / "codes", tmp_path / "png").num_new == 0
    assert [p.shape for p in decoded.pictures().values()] == [(22, 82)]
    codes = torch.from_numpy(done.dataset[5].codes[0].astype(np.int64))
    images = tokenizer.decode((codes[None],))
    found = np.asarray(Image.open(decoded.files[5]))
    assert np.array_equal(found, (images[0, 0] * 255).round().numpy().astype(np.uint8))
    exported = imagetok.export(tmp_path / "codes", tmp_path / "codes.parquet")
    assert (exported.num_images, exported.form) == (66, "parquet")
    back = imagetok.import_codes(tmp_path / "codes.parquet", tokenizer_folder, tmp_path / "back")
    assert back.written == 66
    for file in (tmp_path / "codes").iterdir():
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    more = imagetok.encode(tokenizer_folder, pixels[::-1].copy(), tmp_path / "more", limit=66)
    merged = imagetok.merge([done.dataset, tmp_path / "more"], tmp_path / "all")
    assert (merged.inputs, merged.written) == (132, more.written + 66)
    assert len(merged.dataset) == 132


Refusal = tuple[type[ImagetokError], str, Callable[..., object]]


def encode_with(**options: object) -> Callable[..., object]:
    return lambda t, pixels, path: imagetok.encode(t, pixels, path / "codes", **options)


REFUSALS: dict[str, Refusal] = {
    "limit": (ConfigError, "limit: expected a whole number of 1 or more", encode_with(limit=0)),
    "text": (ConfigError, "limit: expected a whole number.*found '5'", encode_with(limit="5")),
    "half": (ConfigError, r"limit: expected a whole number.*found 1\.5", encode_with(limit=1.5)),
    "out": (
        ConfigError,
        "out: expected a path, found NoneType",
        lambda t, pixels, path: imagetok.encode(t, pixels, None),
    ),
    "not a tokenizer": (
        ArtifactError,
        "expected the folder of a tokenizer or a Hub id.*found int",
        lambda t, pixels, path: imagetok.encode(5, pixels, path / "codes"),
    ),
    "not codes": (
        ShardError,
        "expected a code dataset.*found int",
        lambda t, pixels, path: imagetok.decode(t, 5, path / "png"),
    ),
    "folder of images": (
        InputError,
        r"expected image files, found a folder; pass its files, as in .*/\*\.png",
        lambda t, pixels, path: imagetok.reconstruct(t, path),
    ),
    "no image": (
        InputError,
        "expected images: files.*found int",
        lambda t, pixels, path: imagetok.reconstruct(t, 5),
    ),
    "shards": (ConfigError, "samples_per_shard", encode_with(samples_per_shard=0)),
    "batch": (ConfigError, "batch_size", encode_with(batch_size=-1)),
    "skip": (ConfigError, "--max-skip", encode_with(max_skip=-1)),
    "share": (ConfigError, "--max-skip", encode_with(max_skip="101%")),
    "device": (ConfigError, "device warp: cannot be used", encode_with(device="warp")),
    "no tokenizer": (
        ArtifactError,
        "nowhere",
        lambda t, pixels, path: imagetok.encode(path / "nowhere", pixels, path / "codes"),
    ),
    "no images": (
        InputError,
        "nothing there",
        lambda t, pixels, path: imagetok.encode(t, path / "nowhere", path / "codes"),
    ),
    "no codes": (
        ShardError,
        "not a code dataset",
        lambda t, pixels, path: imagetok.decode(t, path / "nowhere", path / "png"),
    ),
    "decode none": (
        ConfigError,
        "limit",
        lambda t, pixels, path: imagetok.decode(t, path / "nowhere", path / "png", limit=0),
    ),
    "merge none": (ConfigError, "found none", lambda t, p, path: imagetok.merge([], path / "all")),
    "no file": (
        InputError,
        "does not exist",
        lambda t, p, path: imagetok.import_codes(path / "none.npy", t, path / "codes"),
    ),
}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(tokenizer, pixels, tmp_path, name):
    error, message, call = REFUSALS[name]
    with pytest.raises(error, match=message):
        call(tokenizer, pixels, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_values_that_types_forbid_are_refused(tokenizer, encode, tmp_path, untyped):
    codes = encode(3)
    with pytest.raises(ConfigError, match="precision: expected 'float32', 'tf32' or 'bfloat16'"):
        imagetok.encode(tokenizer, make_images(3), tmp_path / "new", precision="half")
    with pytest.raises(ConfigError, match="to: expected 'parquet' or 'npy', found 'csv'"):
        imagetok.export(codes, tmp_path / "out", to="csv")
    with pytest.raises(ConfigError, match="expected a list of folders"):
        imagetok.merge(str(codes.folder), tmp_path / "all")


def test_codes_of_another_tokenizer_are_refused(encode, tmp_path):
    with pytest.raises(ShardError, match="pass the tokenizer that made them"):
        imagetok.decode(make_tokenizer(seed=1), encode(3), tmp_path / "png")


def test_progress_false_is_silent_and_true_is_logged(tokenizer, tmp_path, caplog):
    caplog.set_level(logging.INFO, "imagetok")
    imagetok.encode(tokenizer, make_images(3), tmp_path / "quiet", progress=False)
    assert caplog.records == []
    imagetok.encode(tokenizer, make_images(3), tmp_path / "told")
    assert any("encoding: 3/3" in record.getMessage() for record in caplog.records)
