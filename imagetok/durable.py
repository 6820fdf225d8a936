"""One way to make a file durable: write to a temporary name, fsync, rename, fsync the folder.

Whatever carries a final name is complete. A folder is made durable the same way, with a
`manifest.json` of hashes as its last file; `verify_folder` tells what differs from it.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from imagetok.errors import ResourceError
from imagetok.io.json_files import read_json
from imagetok.io.temporary_files import hold, remove_leftovers

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"
# Another file system, one without links, a foreign owner's file, too many links.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# A folder cannot be locked on NFS, nor anything on some cluster file systems.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
logger = logging.getLogger("imagetok")


def canonical_json(value: Any) -> bytes:
    """The one JSON form that is hashed: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}{_TEMPORARY}{os.getpid()}")


def _begin(path: Path) -> Path:
    """The temporary name for `path`; what killed writers of it left is removed."""
    check_held(path)
    remove_leftovers(path, _TEMPORARY)
    return _temporary(path)


@contextmanager
def _making(path: Path) -> Iterator[None]:
    """Refuse a place such as /proc, where what shall be made is "not found"."""
    try:
        yield
    except FileNotFoundError:
        raise ResourceError(
            f"{path}: no files or folders can be made there; choose a place on a disk"
        ) from None


@contextmanager
def staged_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under `path`, complete and durable, when the block ends.

    An exception inside the block removes the temporary file and leaves `path` as it was.
    """
    temporary = _begin(path)
    with _making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = temporary.open("wb")
    try:
        with opened as file:
            hold(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def link_or_copy(source: Path, path: Path) -> bool:
    """Give a file that never changes a second name, durably; a copy where links are not possible.

    `path` must not exist. Returns whether it is a link.
    """
    with _making(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with source.open("rb") as original, staged_file(path) as file:
            shutil.copyfileobj(original, file, 1 << 20)
        return False
    fsync_folder(path.parent)
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file durably."""
    with staged_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `readable_json` durably."""
    write_bytes(path, readable_json(value))


def readable_json(value: Any) -> bytes:
    """The one JSON form that is stored: sorted keys, two spaces, a final newline, no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, hashed and durable, when the block ends.

    An existing `path` is replaced only after the new folder is complete.
    """
    temporary = _begin(path)
    shutil.rmtree(temporary, ignore_errors=True)
    with _making(path):
        temporary.mkdir(parents=True)
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        hold(descriptor)
        yield temporary
        commit_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def commit_folder(temporary: Path, path: Path) -> None:
    """Seal a finished folder and give it its final name, replacing what has that name."""
    seal_folder(temporary)
    if path.exists():
        discarded = path.with_name(f"{path.name}{_TEMPORARY}old-{os.getpid()}")
        path.rename(discarded)
        temporary.rename(path)
        shutil.rmtree(discarded)
    else:
        temporary.rename(path)
    fsync_folder(path.parent)


def seal_folder(folder: Path) -> None:
    """fsync every file of a folder and write its manifest of sizes and hashes last."""
    files = {}
    for file in _contents(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        name = file.relative_to(folder).as_posix()
        files[name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    for subfolder in [p for p in folder.rglob("*") if p.is_dir()]:
        fsync_folder(subfolder)
    write_json(folder / MANIFEST, {"files": files})


def verify_folder(folder: Path, names: Collection[str] | None = None) -> list[str]:
    """What is wrong with a sealed folder, one line a fault; empty when every byte is as written.

    names: look at these files only, where a folder may hold others too. Raises OSError for what
    cannot be read, which may be good.
    """
    try:
        listed = read_json(folder / MANIFEST)["files"]
        expected = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        if not (folder / MANIFEST).exists():
            return [f"{folder / MANIFEST}: missing, so the folder was never completed"]
        return [f"{folder / MANIFEST}: damaged, it is not a manifest"]
    found = {p.relative_to(folder).as_posix() for p in _contents(folder)}
    if names is not None:
        found &= set(names)
        expected = {name: expected[name] for name in expected.keys() & set(names)}
    faults = [f"{folder / name}: missing" for name in sorted(expected.keys() - found)]
    faults += [f"{folder / name}: not in the manifest" for name in sorted(found - expected.keys())]
    for name in sorted(expected.keys() & found):
        size, digest = expected[name]
        actual = (folder / name).stat().st_size
        if actual != size:
            faults.append(f"{folder / name}: expected {size} bytes, found {actual}")
        elif sha256_file(folder / name) != digest:
            faults.append(f"{folder / name}: its sha256 differs from the one recorded")
    return faults


def _contents(folder: Path) -> list[Path]:
    """The files of a folder that a manifest lists, sorted; nested manifests are content too.

    Raises OSError where a folder cannot be listed: what it holds is then unknown, not missing.
    """
    found = (Path(place) / n for place, _, names in os.walk(folder, onerror=_fail) for n in names)
    return sorted(p for p in found if p.is_file() and p != folder / MANIFEST)


def _fail(error: OSError) -> NoReturn:
    raise error


def is_temporary(path: Path, name: str) -> bool:
    """Whether a path is what a killed writer of `name` left behind."""
    return path.name.startswith(f"{name}{_TEMPORARY}")


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left behind; call it with the folder's lock held."""
    for leftover in folder.glob(f"*{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def lock(folder: Path, *, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a folder for one writer; the kernel frees it when the process ends, however it ends.

    Yields a function that lets other processes hold it too from then on, those with `shared`.
    Raises ResourceError when another process holds it, and when the folder is removed, renamed or
    replaced while it is held. A file system without locks is a warning.
    """
    with _making(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    _held[descriptor] = folder.absolute()
    try:
        _flock(folder, descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield lambda: _flock(folder, descriptor, fcntl.LOCK_SH)
        check_held(folder)
    except Exception as error:
        try:
            check_held(folder)  # then whatever was raised is its consequence
        except ResourceError as gone:
            raise gone from error
        raise
    finally:
        del _held[descriptor]
        os.close(descriptor)


def check_held(path: Path) -> None:
    """Raise ResourceError if a locked folder, which `path` is or lies in, is no longer the same."""
    where = path.absolute()
    for descriptor, folder in _held.items():
        if where.is_relative_to(folder) and not _is_same(descriptor, folder):
            raise ResourceError(
                f"{folder}: was removed, renamed or replaced while it was written to; nothing is "
                "written there any more. Put it back and continue, or begin in a new folder"
            )


def _is_same(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _flock(folder: Path, descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResourceError(
            f"{folder}: another process is writing here; wait for it to end, "
            "or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        logger.warning("%s: no locks here (%s); let nobody else write there", folder, error)


_held: dict[int, Path] = {}


def _drop_inherited_locks() -> None:
    """A forked child (a loader's worker) must not keep its parent's locks alive after it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_inherited_locks)
