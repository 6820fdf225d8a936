"""A writer that is killed, or whose disk is full, at any operation: nothing lost or half made."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import code_samples
import pytest
from code_samples import Watched, failing_at, make_images, small_plan
from disk_faults import at_every_operation
from representative import slow_but

from cli.main import _explain
from imagetok.codes.encode import encode_dataset
from imagetok.codes.interchange.import_ import import_rows
from imagetok.codes.schema import MANIFEST, PLAN
from imagetok.durable import lock
from imagetok.errors import ResourceError

SCRIPT = Path(code_samples.__file__)
COUNT = 13  # two shards
# A stride that shares no factor with the six operations of a file, so that each is met.
STRIDE = pytest.mark.parametrize("stride", slow_but([7], [1, 7]))


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name, data in content(folder).items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


@pytest.fixture
def run(tokenizer_folder, start_python, tmp_path):
    """run(mode, count) -> the lines that the script printed; its folders are in tmp_path/out."""

    def start(mode: str, count: int, *more: int) -> list[str]:
        process = start_python(SCRIPT, mode, tokenizer_folder, tmp_path / "out", count, *more)
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return out.splitlines()

    return start


@STRIDE
def test_a_kill_at_any_disk_operation_is_made_good_by_a_rerun(encode, run, tmp_path, stride):
    whole = encode(COUNT, "whole").folder
    run("kill", COUNT, stride)
    folders = sorted((tmp_path / "out").iterdir())
    # 5 reads; of each of 6 files: mkdir, open, write, fsync, rename, fsync of the folder, and
    # more writes of the larger ones.
    assert len(folders) > (5 + 6 * 6 + 2) // stride
    for folder in folders:
        assert tree_hash(folder) == tree_hash(whole), folder.name


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1])
def test_a_full_disk_at_any_operation_leaves_nothing_half_made(encode, run, tmp_path, stride):
    whole = content(encode(COUNT, "whole").folder)
    found = [json.loads(line) for line in run("fill", COUNT, stride)]
    assert len(found) > (6 * 6 + 2) // stride
    for there in found:
        assert {name: bytes.fromhex(data) for name, data in there.items()}.items() <= whole.items()
    assert len(whole) - max(len(there) for there in found) < stride
    for folder in (tmp_path / "out").iterdir():
        assert content(folder) == whole, folder.name


@pytest.mark.slow
def test_killing_one_or_both_of_two_processes_is_made_good_by_a_rerun(encode, run, tmp_path):
    whole = tree_hash(encode(61, "whole").folder)
    files_before = [int(line) for line in run("kill-one-of-two", 61)]
    assert len(set(files_before)) > 2  # the kills came at different stages
    for folder in (tmp_path / "out").iterdir():
        assert tree_hash(folder) == whole, folder.name


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_stops_it_and_room_lets_it_finish(encode, tokenizer, small_disk):
    whole, images = encode(61, "whole").folder, make_images(61)
    plan = small_plan(tokenizer, images)
    folder, ballast, reads = small_disk / "codes", small_disk / "ballast", iter(range(1000))

    def fill() -> None:
        if next(reads) == 12:
            with ballast.open("wb") as file:
                try:
                    while True:
                        os.write(file.fileno(), bytes(4096))
                except OSError:
                    file.truncate(file.tell() - 12288)  # room for a tar, not for its record

    with pytest.raises(OSError) as full:
        encode_dataset(tokenizer, Watched(images, fill), folder, plan, threads=1)
    assert _explain(full.value)[1] == 5
    there = content(folder)
    assert 3 < len(there) < 17
    assert there.items() <= content(whole).items()
    with pytest.raises(
        ResourceError, match=r"need about [\d,]+ more bytes, but the disk has [\d,]+ "
    ):
        encode_dataset(tokenizer, images, folder, plan)
    ballast.unlink()
    encode_dataset(tokenizer, images, folder, plan)
    assert tree_hash(folder) == tree_hash(whole)


def test_only_what_is_missing_must_fit_the_disk(encode, tokenizer, small_disk, monkeypatch):
    """A finished dataset needs no room; leftovers of a killed writer count as room."""
    images = make_images(61)
    plan = small_plan(tokenizer, images)
    folder = small_disk / "codes"
    encode_dataset(tokenizer, images, folder, plan)
    leftover = folder / "00003.tar.tmp-1"
    try:
        with leftover.open("wb") as file:
            while True:
                os.write(file.fileno(), bytes(65536))
    except OSError:
        pass
    (folder / "00003.json").unlink()
    assert encode_dataset(tokenizer, images, folder, plan).written == 61
    assert not leftover.exists()


def test_a_process_that_outlives_the_first_keeps_other_writers_away(
    tokenizer, start_python, tmp_path
):
    """The first process of a job was killed; another one still writes."""
    survivor = start_python(
        "-c",
        "import sys, pathlib; from imagetok.durable import lock\n"
        "with lock(pathlib.Path(sys.argv[1]), shared=True):\n"
        "    print('held', flush=True); sys.stdin.read()",
        tmp_path,
    )
    images = make_images(3)
    plan = small_plan(tokenizer, images)
    try:
        assert survivor.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match="another process is writing"):
            encode_dataset(tokenizer, images, tmp_path, plan)
    finally:
        survivor.kill()
        survivor.communicate()
    assert encode_dataset(tokenizer, images, tmp_path, plan).written == 3


def test_a_shared_hold_lets_others_of_the_job_in_but_no_second_job(tmp_path):
    with lock(tmp_path) as share:
        with pytest.raises(ResourceError), lock(tmp_path, shared=True):
            pass
        share()
        with lock(tmp_path, shared=True), pytest.raises(ResourceError), lock(tmp_path):
            pass
    with lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_a_warning(tokenizer, tmp_path, monkeypatch, caplog):
    import errno
    import fcntl

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    images = make_images(3)
    assert encode_dataset(tokenizer, images, tmp_path, small_plan(tokenizer, images)).written == 3
    assert re.search(
        rf"{tmp_path}: the file system has no locks .*; make sure that no other process writes",
        caplog.text,
    )
    assert (tmp_path / PLAN).is_file()


@pytest.mark.slow
def test_a_kill_of_an_export_at_any_operation_is_made_good_by_a_rerun(run, tokenizer, tmp_path):
    pytest.importorskip("pyarrow")
    renamed = run("kill-export", COUNT)
    assert len(renamed) > 12 and {"True", "False"} == set(renamed)  # before and past the rename
    out = tmp_path / "out"
    for folder in out.iterdir():
        if folder.name != "codes":
            assert [p.name for p in folder.iterdir()] == ["exported"], folder.name  # no temporary
            import_rows(folder / "exported", tokenizer, tmp_path / folder.name, name="tiny")
            assert content(tmp_path / folder.name) == content(out / "codes")


@pytest.mark.parametrize("end", slow_but(["removed"], ["removed", "renamed", "replaced"]))
def test_shards_that_vanish_while_they_are_written_are_the_machines_fault(end, tokenizer, tmp_path):
    """At any disk operation: exit code 5, and nothing is written under the old name."""
    images = make_images(5)
    plan = small_plan(tokenizer, images)
    found = 0
    for point in range(10**6):
        folder = tmp_path / f"{point:03d}"

        def vanish(folder: Path = folder) -> None:
            if folder.is_dir():
                folder.rename(folder.with_suffix(".moved"))
                if end == "removed":
                    shutil.rmtree(folder.with_suffix(".moved"))
                elif end == "replaced":
                    folder.mkdir()

        try:
            with at_every_operation(failing_at(point, vanish)):
                encode_dataset(tokenizer, images, folder, plan, threads=1)
        except Exception as error:
            assert isinstance(error, ResourceError), (point, repr(error))
            assert "was removed, renamed or replaced" in str(error)
            found += 1
            continue
        if (folder / MANIFEST).is_file():  # it ended before, or nothing was there yet
            if point > 10:
                break
            continue
    assert found > 15
