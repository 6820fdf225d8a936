"""Cut, flipped and forged datasets: none is read, each is refused by name, no code is run."""

import copy
import json
import os
import pickle
import random
import re
import shutil
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from code_samples import make_images, small_plan
from disk_faults import in_fork

from imagetok.codes.encode import encode_dataset
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.schema import MANIFEST, PLAN, Manifest, parse_json
from imagetok.codes.verify import verify_codes
from imagetok.durable import readable_json, sha256_file
from imagetok.errors import ShardError

COUNT = 13
TAR, RECORD = "00001.tar", "00001.json"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def intact(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    images = make_images(COUNT)
    encode_dataset(tokenizer, images, folder, small_plan(tokenizer, images), threads=1)
    return folder


@pytest.fixture
def folder(intact, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(intact, tmp_path / "codes"))


def read_all(folder: Path, opened: CodeDataset | None) -> None:
    """Open and read everything; `opened`: a dataset that was opened before the damage."""
    dataset = copy.copy(opened) if opened else open_codes(folder)  # a copy has no open shards
    dataset.__getitems__(range(COUNT))


def count_accepted(folder: Path, name: str, mutants: list[Callable[[bytes], bytes]]) -> int:
    """How many mutants of a file are read; the others are refused with the file's name."""
    path = folder / name
    data = path.read_bytes()
    opened = None if name in (PLAN, MANIFEST) else open_codes(folder)
    accepted = 0
    for mutant in mutants:
        path.write_bytes(mutant(data))
        try:
            read_all(folder, opened)
            accepted += 1
        except (ValueError, OSError) as refusal:
            assert name in str(refusal), refusal
    path.write_bytes(data)
    read_all(folder, None)
    return accepted


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


def flip(position: float, bit: int) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        place = int(position * len(data))
        return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]

    return apply


AMOUNT = pytest.mark.parametrize("amount", [0.04, pytest.param(1, marks=pytest.mark.slow)])
FILES = pytest.mark.parametrize("name", [TAR, RECORD, PLAN, MANIFEST])


@AMOUNT
@FILES
def test_no_cut_is_accepted(name, amount, folder):
    """At every tar block, at 500 random places in each file, and at its last byte."""
    size = (folder / name).stat().st_size
    draw = random.Random(name)
    sizes = [draw.randrange(size) for _ in range(int(500 * amount))]
    sizes += [0, size - 1, *range(0, size, 512)]
    assert count_accepted(folder, name, [cut(s) for s in sizes]) == 0


@AMOUNT
@FILES
def test_no_flipped_bit_is_accepted(name, amount, folder):
    draw = random.Random(name)
    mutants = [flip(draw.random(), draw.randrange(8)) for _ in range(int(1250 * amount))]
    assert count_accepted(folder, name, mutants) == 0


def seal(folder: Path, **changes: object) -> None:
    """Make every hash fit what lies in the folder, as a forger would."""
    manifest = parse_json((folder / MANIFEST).read_bytes(), Manifest, MANIFEST)
    entries = []
    for entry in manifest.shards:
        path = (folder / entry.file).with_suffix(".json")
        record = json.loads(path.read_bytes())
        tar = folder / entry.file
        record |= {"sha256": sha256_file(tar), "bytes": tar.stat().st_size}
        path.write_bytes(readable_json(record))
        fitting = {"sha256": record["sha256"], "bytes": record["bytes"]}
        entries.append(entry.model_copy(update={**fitting, "record_sha256": sha256_file(path)}))
    forged = {"shards": tuple(entries), "plan_sha256": sha256_file(folder / PLAN), **changes}
    manifest = manifest.model_copy(update=forged)
    manifest = manifest.model_copy(update={"root": manifest.expected_root()})
    (folder / MANIFEST).write_bytes(readable_json(manifest.model_dump(mode="json")))


def with_header(**changes: object) -> Callable[[bytes], bytes]:
    """The first member's tar header changed, its checksum fitting."""

    def apply(data: bytes) -> bytes:
        info = tarfile.TarInfo.frombuf(data[:512], "utf-8", "strict")
        for name, value in changes.items():
            setattr(info, name, value)
        return info.tobuf(tarfile.USTAR_FORMAT) + data[512:]

    return apply


def with_npy_header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """The first array's npy header changed, as long as it was."""

    def apply(data: bytes) -> bytes:
        header = data[512:640]
        assert old in header
        changed = header.replace(old, new).rstrip(b" \n")
        return data[:512] + changed.ljust(127) + b"\n" + data[640:]

    return apply


class Payload:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def with_pickle(data: bytes) -> bytes:
    """The first array's data replaced by a pickle."""
    planted = pickle.dumps(Payload()).ljust(64, b"\0")[:64]
    return data[:640] + planted + data[704:]


def with_member(name: str, at_end: bool = False) -> Callable[[bytes], bytes]:
    """One more member that holds a pickle; the end mark is shorter for it."""

    def apply(data: bytes) -> bytes:
        content = pickle.dumps(Payload())
        info = tarfile.TarInfo(name)
        info.size = len(content)
        member = info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(512, b"\0")
        if at_end:
            whole = data.rstrip(b"\0")
            start = -(-len(whole) // 512) * 512
            return (data[:start] + member).ljust(len(data), b"\0")
        return (member + data)[: len(data)]

    return apply


def joined(*changes: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        for change in changes:
            data = change(data)
        return data

    return apply


OBJECTS = with_npy_header(b"'|u1'", b"'|O'")
PLANTED = {
    "pickle member first": with_member("000000.pkl"),
    "pickle member last": with_member("000009.pyd", at_end=True),
    "pickle for an array": joined(with_header(name="000000.codes.pth"), with_pickle),
    "renamed to a pickle": with_header(name="000000.codes.pickle"),
    "parent folder": with_header(name="../../000000.codes.npy"),
    "absolute": with_header(name="/etc/000000.codes.npy"),
    "backslash": with_header(name="..\\000000.codes.npy"),
    "swapped member": with_header(name="000000.index.npy"),
    "symbolic link": with_header(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": with_header(type=tarfile.LNKTYPE, linkname="00000.tar"),
    "device": with_header(type=tarfile.CHRTYPE),
    "pipe": with_header(type=tarfile.FIFOTYPE),
    "folder": with_header(type=tarfile.DIRTYPE),
    "extended header": with_header(type=tarfile.XHDTYPE),
    "8 EiB claimed": with_header(size=1 << 32),
    "objects": joined(OBJECTS, with_pickle),
    "10^14 items": with_npy_header(b"(4, 4, 4)", b"(100000000000000, 4, 4)"),
    "Fortran order": with_npy_header(b"False", b"True"),
    "other type": with_npy_header(b"'|u1'", b"'<u8'"),
    "other shape": with_npy_header(b"(4, 4, 4)", b"(4, 16)"),
    "code in the header": with_npy_header(b"'|u1'", b"exit()"),
    "code out of range": lambda data: data[:640] + b"\xff" + data[641:],
    "hidden in padding": lambda data: data[:710] + b"x" + data[711:],
    "hidden in the end": lambda data: data[:-1] + b"x",
}


def refused_without_running(folder: Path, name: str, intact: Path) -> None:
    """In a process of its own: a refusal that names `name`, no code run, little memory taken."""

    def watch(event: str, arguments: tuple) -> None:
        if event in ("pickle.find_class", "os.system", "subprocess.Popen"):
            os._exit(99)

    def work() -> None:
        os.chdir(folder.parent)
        list(open_codes(intact).stream(4))  # imports what it needs
        sys.addaudithook(watch)
        tracemalloc.start()
        for read in (lambda: read_all(folder, None), lambda: list(open_codes(folder).stream(4))):
            with pytest.raises(ShardError, match=re.escape(name)):
                read()
        assert any(name in fault for fault in verify_codes(folder))
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE

    assert in_fork(work) == 0
    assert not (folder.parent / "executed").exists()


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_members_are_refused_though_every_hash_fits(planted, folder, intact):
    path = folder / TAR
    data = path.read_bytes()
    forged = PLANTED[planted](data)
    assert forged != data and len(forged) == len(data)
    path.write_bytes(forged)
    seal(folder)
    refused_without_running(folder, TAR, intact)


def test_planted_headers_are_refused_where_data_is_not_hashed(folder):
    for planted in ("symbolic link", "pickle member last", "objects", "10^14 items"):
        data = (folder / TAR).read_bytes()
        (folder / TAR).write_bytes(PLANTED[planted](data))
        with pytest.raises(ShardError, match=r"00001\.tar: at byte .*expected the "):
            open_codes(folder, verify="size").__getitems__(range(COUNT))
        (folder / TAR).write_bytes(data)


def test_a_payload_would_run_if_it_were_unpickled(tmp_path, monkeypatch):
    """Else the tests above show nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))
    assert (tmp_path / "executed").exists()


HUGE = 10**14


@pytest.mark.parametrize(
    "claim",
    [
        {"num_inputs": HUGE},
        {"samples_per_shard": HUGE, "num_inputs": HUGE},
        {"samples_per_shard": 1},
        {"samples_per_block": HUGE},
        {"grids": [[HUGE, HUGE]]},
        {"num_codes": [2**32]},
        {"num_codes": [2**40]},
        {"num_codes": [11, 11]},
        {"grids": []},
    ],
)
def test_claims_of_a_plan_are_refused_though_every_hash_fits(claim, folder):
    plan = json.loads((folder / PLAN).read_bytes())
    (folder / PLAN).write_bytes(readable_json({**plan, **claim}))
    seal(folder, **({"inputs": claim["num_inputs"]} if "num_inputs" in claim else {}))
    tracemalloc.start()
    try:
        with pytest.raises(ShardError, match=r"\.json"):
            open_codes(folder).__getitems__(range(COUNT))
        assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["samples", "bytes"])
def test_claims_of_a_manifest_are_refused_though_its_hash_fits(field, folder):
    manifest = parse_json((folder / MANIFEST).read_bytes(), Manifest, MANIFEST)
    last = manifest.shards[-1].model_copy(update={field: HUGE})
    seal(folder, shards=(*manifest.shards[:-1], last))
    with pytest.raises(ShardError, match=r"do not match plan\.json"):
        open_codes(folder)
    more = {"inputs": HUGE, "written": HUGE + COUNT, "skipped": 0}
    seal(folder, shards=(*manifest.shards[:-1], last), **more)
    with pytest.raises(ShardError, match=r"do not match plan\.json"):
        open_codes(folder)
