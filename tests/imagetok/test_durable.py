import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imagetok.durable import (
    MANIFEST,
    canonical_json,
    link_or_copy,
    lock,
    remove_temporaries,
    staged_file,
    staged_folder,
    verify_folder,
    write_bytes,
    write_json,
)
from imagetok.errors import ResourceError
from imagetok.io.temporary_files import hold


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    with staged_folder(folder) as staged:
        (staged / "a.bin").write_bytes(bytes(range(40)))
        (staged / "empty").write_bytes(b"")
        (staged / "inner").mkdir()
        (staged / "inner" / "b.txt").write_bytes(b"some text")
        (staged / "inner" / MANIFEST).write_bytes(b"{}")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_staged_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")
    with staged_file(path) as file:
        file.write(b"new content")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new content" and names(path.parent) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(error), staged_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file_and_its_leftover_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from imagetok.durable import staged_file\n"
        "with staged_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old" and len(names(tmp_path)) == 2
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["file"]


def test_an_exception_leaves_the_old_folder(sealed: Path) -> None:
    with pytest.raises(RuntimeError), staged_folder(sealed) as staged:
        (staged / "half").write_bytes(b"x")
        raise RuntimeError
    assert verify_folder(sealed) == [] and names(sealed.parent) == ["sealed"]


def test_a_staged_folder_replaces_the_old_one(sealed: Path) -> None:
    with staged_folder(sealed) as staged:
        (staged / "only").write_bytes(b"x")
    assert names(sealed) == [MANIFEST, "only"] and names(sealed.parent) == ["sealed"]
    assert verify_folder(sealed) == []


def test_every_flipped_byte_is_found(sealed: Path) -> None:
    assert verify_folder(sealed) == []
    for path in [p for p in sealed.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            assert verify_folder(sealed), f"{path} byte {position}"
        path.write_bytes(content)
    assert verify_folder(sealed) == []


def test_every_truncation_is_found(sealed: Path) -> None:
    for path in [p for p in sealed.rglob("*") if p.is_file() and p.stat().st_size]:
        content = path.read_bytes().rstrip(b"\n")  # the manifest's last newline says nothing
        for length in range(len(content)):
            path.write_bytes(content[:length])
            assert verify_folder(sealed), f"{path} cut to {length}"
        path.write_bytes(content)
    assert verify_folder(sealed) == []


@pytest.mark.parametrize("name", ["a.bin", "empty", "inner/b.txt", f"inner/{MANIFEST}"])
def test_a_missing_file_is_named(sealed: Path, name: str) -> None:
    (sealed / name).unlink()
    assert verify_folder(sealed) == [f"{sealed / name}: missing"]


def test_an_extra_file_is_named(sealed: Path) -> None:
    (sealed / "inner" / "c").write_bytes(b"")
    assert verify_folder(sealed) == [f"{sealed / 'inner' / 'c'}: not in the manifest"]


def test_a_swap_of_two_files_is_found(sealed: Path) -> None:
    (sealed / "a.bin").write_bytes(b"0" * 9)
    os.rename(sealed / "inner" / "b.txt", sealed / "a.bin")  # noqa: PTH104
    (sealed / "inner" / "b.txt").write_bytes(bytes(range(40)))
    assert len(verify_folder(sealed)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": 3}',
        '{"files": {"a": {}}}',
        '{"files": {"a.bin": {"bytes": 1e999, "sha256": ""}}}',
        "[" * 100_000,
    ],
    ids=range(7),
)
def test_what_is_no_manifest_is_a_fault(sealed: Path, text: str) -> None:
    (sealed / MANIFEST).write_text(text)
    assert verify_folder(sealed) == [f"{sealed / MANIFEST}: damaged, because it is not a manifest"]


def test_a_folder_without_manifest_was_never_completed(tmp_path: Path) -> None:
    assert "never completed" in verify_folder(tmp_path)[0]


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(Path("unused"), float("inf"))


def test_a_lock_refuses_a_second_process_and_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from imagetok.durable import lock\n"
        "with lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            refusal = pytest.raises(
                ResourceError, match="another process is writing to this folder"
            )
            with refusal, lock(tmp_path):
                pytest.fail("two writers")
        finally:
            holder.send_signal(signal.SIGKILL)
    with lock(tmp_path):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0 and "another process is writing to this folder" in second.stderr


def test_a_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path):
        raise RuntimeError
    with lock(tmp_path):
        assert tmp_path.is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, where nothing can be made")
@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_bytes(path, b""),
        lambda path: lock(path).__enter__(),
        lambda path: staged_folder(path).__enter__(),
        lambda path: link_or_copy(Path(__file__), path / "link"),
    ],
)
def test_where_nothing_can_be_made_it_is_said(place: str, make: Callable[[Path], object]) -> None:
    with pytest.raises(ResourceError, match=f"{place}.*: no files or folders can be created there"):
        make(Path(place))


def test_what_a_writer_itself_misses_is_no_fault_of_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_file(tmp_path / "file"):
        (tmp_path / "missing").read_bytes()
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_what_is_written_stays(tmp_path):
    """Of the same name only, whoever wrote it: nobody holds its lock."""
    ended = [tmp_path / f"a.png{form}" for form in (".tmp-999999991", ".tmp-old-999999992")]
    ended[0].touch()
    ended[1].mkdir()
    (ended[1] / "inside").touch()
    written = tmp_path / "a.png.tmp-999999993"
    strangers = [tmp_path / name for name in ("b.png.tmp-999999991", "a.png.tmp-mine", "a.png.old")]
    for path in (written, *strangers):
        path.touch()
    with written.open("rb") as file:
        hold(file.fileno())
        write_bytes(tmp_path / "a.png", b"new")
    assert names(tmp_path) == sorted(p.name for p in (tmp_path / "a.png", written, *strangers))


def test_a_file_is_held_while_it_is_staged(tmp_path):
    with staged_file(tmp_path / "a"), staged_folder(tmp_path / "b"):
        for temporary in tmp_path.iterdir():
            with pytest.raises(BlockingIOError):
                descriptor = os.open(temporary, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("error", [None, KeyError("consequence"), FileNotFoundError("gone")])
def test_a_locked_folder_that_vanishes_is_the_machines_fault(tmp_path, error):
    folder = tmp_path / "held"
    with pytest.raises(ResourceError, match="held: was removed, renamed or replaced"), lock(folder):
        folder.rename(tmp_path / "moved")
        with pytest.raises(ResourceError):
            write_bytes(folder / "below" / "file", b"")
        if error is not None:
            raise error
    assert names(tmp_path) == ["moved"]
    with pytest.raises(KeyError), lock(tmp_path / "moved"):
        raise KeyError("of its own")
