"""Code datasets to parquet and .npy and back: the same bytes; strangers' codes; refusals."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from code_samples import NUM_CODES, Unreadable, make_images, make_tokenizer, small_plan
from hierarchical_samples import build_mixed

from cli.main import _run
from imagetok.codes.encode import encode_dataset
from imagetok.codes.interchange import export, format, import_
from imagetok.codes.interchange.export import export_codes
from imagetok.codes.interchange.import_ import import_rows
from imagetok.codes.merge import merge_codes
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.verify import verify_codes
from imagetok.durable import sha256_file
from imagetok.errors import ConfigError, InputError, ShardError
from imagetok.images import to_unit_range

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
FORMS = ["parquet", "npy"]
BAD = (0, 5, 6, 9, 10, 11, 12, 13, 14, 15, 20)  # the first, the last, and most of shard 1


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch) -> None:
    """So that a few images are several pieces, and these end inside of shards and row groups."""
    monkeypatch.setattr(export, "ROWS", 5)
    monkeypatch.setattr(import_, "ROWS", 3)


@pytest.fixture
def with_skips(tokenizer, tmp_path) -> CodeDataset:
    images = Unreadable(make_images(21), BAD)
    plan = small_plan(tokenizer, images)
    encode_dataset(tokenizer, images, tmp_path / "codes", plan, max_skips=21, threads=1)
    return open_codes(tmp_path / "codes")


def tree(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def round_trip(dataset: CodeDataset, tokenizer, form: str, folder: Path) -> None:
    export_codes(dataset, folder / "out", form)
    import_rows(folder / "out", tokenizer, folder / "back", name="another name")
    assert tree(folder / "back") == tree(dataset.folder)
    assert verify_codes(folder / "back") == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("count", [0, 1, 21])
def test_the_same_bytes_come_back(form, labelled, count, encode, tokenizer, tmp_path):
    round_trip(encode(count, labelled=labelled), tokenizer, form, tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_skipped_inputs_come_back(form, with_skips, tokenizer, tmp_path):
    assert len(with_skips) == 10
    round_trip(with_skips, tokenizer, form, tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_merged_dataset_comes_back(form, with_skips, tokenizer, tmp_path):
    images = make_images(10)
    images.images = 255 - images.images
    encode_dataset(tokenizer, images, tmp_path / "more", small_plan(tokenizer, images))
    merge_codes([with_skips.folder, tmp_path / "more"], tmp_path / "merged")
    round_trip(open_codes(tmp_path / "merged"), tokenizer, form, tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_levels_come_back(form, tmp_path):
    images = make_images(13)
    config = {
        "image": {"mode": "grey", "height": 8, "width": 8},
        "network": {"kind": "vqvae2", "width": 8, "residual_width": 4},
        "quantizers": [
            {"kind": "vqvae-ema", "num_codes": 300, "code_dim": 4},
            {"kind": "vqvae-ema", "num_codes": 9, "code_dim": 4},
        ],
    }
    tokenizer = build_mixed(config, to_unit_range(images.images)).requires_grad_(False).eval()
    encode_dataset(tokenizer, images, tmp_path / "codes", small_plan(tokenizer, images))
    round_trip(open_codes(tmp_path / "codes"), tokenizer, form, tmp_path)
    if form == "parquet":
        table = pq.read_table(tmp_path / "out")
        assert table.column_names == ["codes0", "codes1", "label", "source_index"]


def test_a_stopped_import_continues(encode, tokenizer, tmp_path):
    dataset = encode(21)
    export_codes(dataset, tmp_path / "out", "npy")
    import_rows(tmp_path / "out", tokenizer, tmp_path / "back", name="tiny")
    for name in ("manifest.json", "00001.json"):
        (tmp_path / "back" / name).unlink()
    import_rows(tmp_path / "out", tokenizer, tmp_path / "back", name="tiny")
    assert tree(tmp_path / "back") == tree(dataset.folder)


def test_datasets_opens_the_parquet_file(with_skips, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    export_codes(with_skips, tmp_path / "codes.parquet", "parquet")
    path = str(tmp_path / "codes.parquet")
    rows = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    whole = with_skips.__getitems__(range(len(with_skips)))
    found = rows.with_format("numpy")[:]
    assert np.array_equal(found["codes"], whole.codes[0].numpy())
    assert found["label"].tolist() == whole.labels.tolist()
    assert found["source_index"].tolist() == whole.keys.tolist()
    assert rows.features["label"].names == ["a", "b", "c"]
    assert rows.features["codes"].feature.feature.dtype == "uint8"


def test_numpy_maps_the_arrays(with_skips, tmp_path):
    export_codes(with_skips, tmp_path / "npy", "npy")
    whole = with_skips.__getitems__(range(len(with_skips)))
    codes = np.load(tmp_path / "npy" / "codes.npy", mmap_mode="r")
    assert codes.dtype == np.uint8 and np.array_equal(codes, whole.codes[0].numpy())
    assert np.load(tmp_path / "npy" / "labels.npy").tolist() == whole.labels.tolist()
    assert np.load(tmp_path / "npy" / "index.npy").tolist() == whole.keys.tolist()
    bound = json.loads((tmp_path / "npy" / "imagetok.json").read_text())
    assert bound["plan"]["tokenizer"]["fingerprint"] == with_skips.fingerprint


@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_is_there_already_is_done(form, encode, tmp_path):
    """An earlier one was killed after its rename; other codes of that name are refused."""
    codes, out = encode(3, "three"), tmp_path / "out"
    export_codes(codes, out, form)
    before = {p: p.stat().st_mtime_ns for p in (out, *out.rglob("*"))}
    export_codes(codes, out, form)
    with pytest.raises(ConfigError, match="out: exists already"):
        export_codes(encode(4, "four"), tmp_path / "out", form)
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("form", FORMS)
def test_an_export_replaces_nothing(form, encode, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ConfigError, match="out: exists already"):
        export_codes(encode(3), tmp_path / "out", form)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("form", FORMS)
def test_codes_of_another_tokenizer_are_refused(form, encode, tmp_path):
    export_codes(encode(3), tmp_path / "out", form)
    other = make_tokenizer(seed=1)
    with pytest.raises(ShardError, match=other.fingerprint[:16]):
        import_rows(tmp_path / "out", other, tmp_path / "back", name="other")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("form", FORMS)
def test_no_damage_is_imported(form, encode, tokenizer, tmp_path):
    """Bits flipped and ends cut off, at random: refused, or without any effect."""
    dataset = encode(21)
    export_codes(dataset, tmp_path / "out", form)
    files = sorted((tmp_path / "out").iterdir()) if form == "npy" else [tmp_path / "out"]
    draw, refused = random.Random(0), 0
    for number in range(120):
        file = files[number % len(files)]
        good = file.read_bytes()
        damaged = bytearray(good)
        if number % 4 == 0:
            del damaged[draw.randrange(len(good)) :]
        else:
            damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        folder = tmp_path / str(number)
        try:
            import_rows(tmp_path / "out", tokenizer, folder, name="tiny")
            assert tree(folder) == tree(dataset.folder), (file, number)
        except InputError as error:
            refused += 1
            assert str(tmp_path / "out") in str(error)
            assert not folder.exists()
        file.write_bytes(good)
    assert refused > 80


def strangers(count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    codes = np.arange(count * 16, dtype=np.int64).reshape(count, 4, 4) % NUM_CODES
    return codes, np.arange(count, dtype=np.int64) % 4 - 1


def write_strangers(folder: Path, form: str, codes: np.ndarray, labels: np.ndarray) -> Path:
    if form == "npy":
        (folder / "in").mkdir()
        np.save(folder / "in" / "codes.npy", codes)
        np.save(folder / "in" / "labels.npy", labels)
        return folder / "in"
    pq.write_table(pa.table({"label": labels, "codes": codes.tolist()}), folder / "in.parquet")
    return folder / "in.parquet"


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_codes_of_others_are_bound(form, flat, tokenizer, tmp_path):
    codes, labels = strangers()
    source = write_strangers(tmp_path, form, codes.reshape(10, 16) if flat else codes, labels)
    report = import_rows(source, tokenizer, tmp_path / "codes", name="tiny")
    dataset = open_codes(tmp_path / "codes")
    batch = dataset.__getitems__(range(10))
    assert torch.equal(batch.codes[0], torch.from_numpy(codes))
    assert batch.labels.tolist() == labels.tolist()
    assert batch.keys.tolist() == list(range(10))
    assert dataset.plan.class_names == ("0", "1", "2")
    assert (dataset.fingerprint, report.written) == (tokenizer.fingerprint, 10)
    assert verify_codes(dataset.folder) == []
    if form == "npy":
        import_rows(source / "codes.npy", tokenizer, tmp_path / "alone", name="tiny")
        assert open_codes(tmp_path / "alone").num_classes is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, y: (c + (c == 10) * 1, y), r"expected codes in \[0, 11\), found 11 in row 0"),
        (lambda c, y: (c - 1, y), r"found -1 in row 0"),
        (lambda c, y: (c[:, :3], y), "expected 4 x 4 codes per image, found 3 x 4"),
        (lambda c, y: (c.astype(np.float32), y), "expected whole numbers, found (float|double)"),
        (lambda c, y: (c, y - 1), "expected a class in .*, found -2 in row 0"),
        (lambda c, y: (c, y + 65_536), r"found 65536 in row 1"),
    ],
)
def test_what_no_tokenizer_made_is_refused(form, change, message, tokenizer, tmp_path):
    source = write_strangers(tmp_path, form, *change(*strangers()))
    with pytest.raises(InputError, match=message):
        import_rows(source, tokenizer, tmp_path / "codes", name="tiny")
    assert not (tmp_path / "codes").exists()


SPELLINGS = {
    "float": np.array([-1, 0, 1, 2, np.nan, 0, 1, 2, -1, 0], np.float32),
    "text": np.array(["-1", "0", "+1", "2.0", "nan", "00", "1e0", " 2", "", "0."]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_labels_are_integers_in_any_spelling(form, spelling, tokenizer, tmp_path):
    source = write_strangers(tmp_path, form, strangers()[0], SPELLINGS[spelling])
    import_rows(source, tokenizer, tmp_path / "codes", name="tiny")
    dataset = open_codes(tmp_path / "codes")
    assert dataset[:].labels.tolist() == [-1, 0, 1, 2, -1, 0, 1, 2, -1, 0]
    assert dataset.plan.class_names == ("0", "1", "2")


def test_empty_values_categories_and_decimals_of_a_table_are_labels(tokenizer, tmp_path):
    codes = strangers()[0][:3].tolist()
    for number, column in enumerate(
        [
            pa.array([2, None, 0]),
            pa.array([2.0, None, 0.0]),
            pa.array(["2", None, "0"]).dictionary_encode(),
            pa.array([2, None, 0], pa.decimal128(4, 1)),
        ]
    ):
        pq.write_table(pa.table({"label": column, "codes": codes}), tmp_path / "in.parquet")
        out = tmp_path / f"codes{number}"
        import_rows(tmp_path / "in.parquet", tokenizer, out, name="tiny")
        assert open_codes(out)[:].labels.tolist() == [2, -1, 0]
    column = pa.nulls(3)
    pq.write_table(pa.table({"label": column, "codes": codes}), tmp_path / "in.parquet")
    import_rows(tmp_path / "in.parquet", tokenizer, tmp_path / "none", name="tiny")
    assert open_codes(tmp_path / "none").num_classes is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0, 1, 2, 3, 1.5, 0.5, 0, 0, 0, 0], r"1\.5 in row 4"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, np.inf], "inf in row 9"),
        (["0", "1", "cat", "2", "dog", "0", "0", "0", "0", "0"], "'cat' in row 2"),
        ([1e300, 0, 0, 0, 0, 0, 0, 0, 0, 0], r"1e\+300 in row 0"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, -2.0], r"-2\.0 in row 9"),
    ],
)
def test_other_labels_are_refused_with_their_row(form, labels, found, tokenizer, tmp_path):
    source = write_strangers(tmp_path, form, strangers()[0], np.array(labels))
    with pytest.raises(InputError, match=f"label.*: expected .*, found {found}"):
        import_rows(source, tokenizer, tmp_path / "codes", name="tiny")
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize("form", FORMS)
def test_no_codes_of_others_are_refused(form, tokenizer, tmp_path):
    codes, labels = strangers()
    source = write_strangers(tmp_path, form, codes[:0], labels[:0])
    with pytest.raises(
        InputError, match=f"{source.name}.*: expected .* at least one image, found 0"
    ):
        import_rows(source, tokenizer, tmp_path / "codes", name="tiny")
    assert not (tmp_path / "codes").exists()


def test_hostile_arrays_are_refused(tokenizer, tmp_path):
    cases = {}
    np.save(tmp_path / "objects.npy", np.array([os.system], dtype=object), allow_pickle=True)
    cases["objects"] = "Python objects in dtype"
    with (tmp_path / "huge.npy").open("wb") as file:
        header = {"descr": "<u8", "fortran_order": False, "shape": (10**14, 4, 4)}
        np.lib.format.write_array_header_1_0(file, header)
    cases["huge"] = "not a .npy array, or a damaged one"
    np.save(tmp_path / "longer.npy", strangers()[0])
    with (tmp_path / "longer.npy").open("ab") as file:
        file.write(b"more")
    cases["longer"] = "bytes of data, found more"
    (tmp_path / "text.npy").write_text("codes")
    cases["text"] = "not a .npy array"
    for name, message in cases.items():
        with pytest.raises(InputError, match=rf"{name}\.npy: .*{message}"):
            import_rows(tmp_path / f"{name}.npy", tokenizer, tmp_path / "codes", name="tiny")


def test_ragged_empty_and_missing_columns_are_refused(tokenizer, tmp_path):
    path = tmp_path / "codes.parquet"
    for columns, message in [
        ({"codes": [[1] * 16, [1] * 15]}, "expected lists of equal length, found lengths 15 to 16"),
        ({"codes": [[1] * 16, None]}, "expected no empty values"),
        ({"codes": [[1] * 16], "label": [True]}, "'label': expected whole numbers, found bool"),
        ({"tokens": [[1] * 16]}, "expected a column 'codes' .* found tokens"),
    ]:
        pq.write_table(pa.table(columns), path)
        with pytest.raises(InputError, match=message):
            import_rows(path, tokenizer, tmp_path / "codes", name="tiny")


def test_edited_rows_are_not_taken_for_the_exported_ones(encode, tokenizer, tmp_path):
    export_codes(encode(21), tmp_path / "a.parquet", "parquet")
    binding = pq.ParquetFile(tmp_path / "a.parquet").metadata.metadata[b"imagetok"]
    table = pq.read_table(tmp_path / "a.parquet")
    for edited in (table.slice(1), table.take(list(range(20, -1, -1)))):
        kept = edited.replace_schema_metadata({"imagetok": binding})
        pq.write_table(kept, tmp_path / "b.parquet")
        with pytest.raises(InputError, match="edited"):
            import_rows(tmp_path / "b.parquet", tokenizer, tmp_path / "new", name="tiny")
    pq.write_table(edited, tmp_path / "b.parquet")  # without the binding
    with pytest.raises(InputError, match="the source that its column 'source_index' refers to"):
        import_rows(tmp_path / "b.parquet", tokenizer, tmp_path / "new", name="tiny")
    pq.write_table(edited.drop_columns(["source_index"]), tmp_path / "b.parquet")
    import_rows(tmp_path / "b.parquet", tokenizer, tmp_path / "new", name="tiny")
    found = open_codes(tmp_path / "new")
    assert found[0].label == table["label"][20].as_py() and found[0].key == 0


def test_the_commands(encode, tokenizer_folder, tmp_path, capsys):
    dataset, back = encode(21), str(tmp_path / "back")
    out = str(tmp_path / "codes.parquet")
    words = ["import", out, "--tokenizer", str(tokenizer_folder), "--shards", back]
    assert _run(words) == 3
    assert "does not exist" in capsys.readouterr().err
    assert _run(["export", str(dataset.folder), "--to", "parquet", "--out", out]) == 0
    assert _run(words) == 0
    assert "back: 21 images in 3 shards" in capsys.readouterr().out
    assert tree(Path(back)) == tree(dataset.folder)
    assert _run(["export", str(dataset.folder), "--to", "parquet", "--out", out]) == 0  # is there
    other = str(encode(3, "other").folder)
    assert _run(["export", other, "--to", "parquet", "--out", out]) == 2
    assert format.ROWS > 5


def test_without_pyarrow_parquet_says_how_to_get_it(encode, tmp_path, monkeypatch, capsys):
    folder = str(encode(3).folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = str(tmp_path / "codes.parquet")
    assert _run(["export", folder, "--to", "parquet", "--out", out]) == 5
    says = capsys.readouterr().err
    assert "parquet needs pyarrow" in says and 'pip install "imagetok[data]"' in says
    assert _run(["export", folder, "--to", "npy", "--out", out]) == 0
