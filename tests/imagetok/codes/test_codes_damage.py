"""Every damage is found: at the first touch of what is damaged, and by verify_codes."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest
from code_samples import make_images, small_plan

from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import MANIFEST, PLAN, Manifest, read_json
from imagetok.codes.verify import verify_codes
from imagetok.durable import sha256_file, write_json
from imagetok.errors import ShardError


@pytest.fixture(scope="module")
def intact(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    images = make_images(21)
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images))
    return folder


@pytest.fixture
def folder(intact, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "codes"))


def assert_found(folder: Path, name: str) -> None:
    """Reading everything is refused with the name of the damaged file; so is verifying."""
    with pytest.raises(ShardError, match=re.escape(name)):
        open_codes(folder).__getitems__(range(21))
    try:
        faults = verify_codes(folder)
    except ShardError as error:
        faults = [str(error)]
    assert any(name in fault for fault in faults), faults


def test_an_intact_dataset_has_no_faults(intact):
    assert verify_codes(intact) == []
    assert len(open_codes(intact).__getitems__(range(21)).keys) == 21


def test_a_tar_cut_at_any_record_is_refused(folder):
    path = folder / "00001.tar"
    data = path.read_bytes()
    for size in range(0, len(data), 512):
        path.write_bytes(data[:size])
        assert_found(folder, f"00001.tar: expected {len(data)} bytes, found {size}")
    path.write_bytes(data + bytes(512))
    assert_found(folder, f"00001.tar: expected {len(data)} bytes, found {len(data) + 512}")


@pytest.mark.parametrize("name", ["00001.tar", "00001.json", MANIFEST, PLAN])
def test_any_flipped_bit_is_refused(name, folder):
    path = folder / name
    data = path.read_bytes()
    draw = random.Random(name)
    for _ in range(12):  # thousands, only read: test_codes_mutants
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        # A changed plan or manifest may be told as a misfit between the two.
        assert_found(folder, ".json" if name in (MANIFEST, PLAN) else name)


@pytest.mark.parametrize("name", ["00001.json", MANIFEST, PLAN])
def test_json_cut_anywhere_is_refused(name, folder):
    path = folder / name
    data = path.read_bytes()
    for size in range(0, len(data) - 1, 101):
        path.write_bytes(data[:size])
        assert_found(folder, name)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b'{"a": 1e999}', b"\xff"])
@pytest.mark.parametrize("name", ["00001.json", MANIFEST, PLAN])
def test_json_of_another_form_is_refused(name, content, folder):
    (folder / name).write_bytes(content)
    assert_found(folder, name)


def test_shards_are_checked_only_when_touched(folder):
    (folder / "00001.tar").write_bytes(b"")
    dataset = open_codes(folder)
    assert [dataset[i].key for i in (0, 7, 16, 20)] == [0, 7, 16, 20]
    with pytest.raises(ShardError, match=r"00001\.tar"):
        dataset[8]


def test_a_missing_shard_or_record_is_refused(folder):
    for name in ("00001.tar", "00001.json"):
        (folder / name).rename(folder.parent / name)
        assert_found(folder, f"{name}: missing")
        (folder.parent / name).rename(folder / name)
    assert verify_codes(folder) == []


@pytest.mark.parametrize("suffixes", [["tar"], ["json"], ["tar", "json"]])
def test_swapped_shards_are_refused(suffixes, folder):
    for suffix in suffixes:
        (folder / f"00000.{suffix}").rename(folder / "spare")
        (folder / f"00001.{suffix}").rename(folder / f"00000.{suffix}")
        (folder / "spare").rename(folder / f"00001.{suffix}")
    for index, name in ((0, "00000"), (8, "00001")):
        with pytest.raises(ShardError, match=f"{name}.{suffixes[-1]}: its sha256 differs"):
            open_codes(folder)[index]
    assert len(verify_codes(folder)) == 2


def test_verify_lists_every_fault_and_what_does_not_belong(folder):
    (folder / "00000.tar").unlink()
    (folder / "00002.json").write_text("{}")
    (folder / "00007.tar").write_bytes(b"")
    faults = verify_codes(folder)
    assert len(faults) == 3
    for fault, name in zip(faults, ["00000.tar", "00002.json", "00007.tar"], strict=True):
        assert name in fault


def test_a_record_that_points_elsewhere_is_refused_even_with_fitting_hashes(folder):
    """A forged dataset: every hash is right, but a block lies outside the tar."""
    path = folder / "00000.json"
    genuine = json.loads(path.read_text())
    member = genuine["blocks"][0]["codes.npy"]
    for change in (
        {"offset": 1 << 40},
        {"offset": member["offset"] + 1},
        {"dtype": "<u8"},
        {"dtype": "|O"},
        {"shape": [4, 4, 5]},
        {"shape": [1 << 40, 4, 4]},
    ):
        record = json.loads(path.read_text())
        record["blocks"][0]["codes.npy"] = {**member, **change}
        forge(folder, record)
        assert_found(folder, f"00000.json: does not match {folder / PLAN}")
        forge(folder, genuine)
    assert verify_codes(folder) == []


def forge(folder: Path, record: dict) -> None:

    write_json(folder / "00000.json", record)
    manifest = read_json(folder / MANIFEST, Manifest)
    entry = manifest.shards[0].model_copy(
        update={"record_sha256": sha256_file(folder / "00000.json")}
    )
    manifest = manifest.model_copy(update={"shards": (entry, *manifest.shards[1:])})
    manifest = manifest.model_copy(update={"root": manifest.expected_root()})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def test_what_is_no_code_dataset_is_said_to_be_none(tmp_path):
    with pytest.raises(ShardError, match=r"not a code dataset: it has no plan\.json"):
        open_codes(tmp_path)
    with pytest.raises(ShardError, match=r"nowhere: not a code dataset: the folder does not exist"):
        open_codes(tmp_path / "nowhere")
