"""Durable, atomic writing: write to a temporary name, fsync, rename, fsync the folder.

A file with its final name is always complete. Folders are written the same way, with a
`manifest.json` of hashes as the last file; `verify_folder` lists the differences from it.
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
# Another file system, one without hard links, a file of another owner, or too many links.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# NFS cannot lock folders, and some cluster file systems have no locks.
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
logger = logging.getLogger("imagetok")


def canonical_json(value: Any) -> bytes:
    """Serialise to the JSON form that is hashed: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make the entries of a folder durable (created and renamed files)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}{_TEMPORARY}{os.getpid()}")


def _begin(path: Path) -> Path:
    """Return the temporary name for `path`, after removing leftovers of killed writers of it."""
    check_held(path)
    remove_leftovers(path, _TEMPORARY)
    return _temporary(path)


@contextmanager
def _explain_creation_errors(path: Path) -> Iterator[None]:
    """Raise ResourceError for a folder such as /proc, where creating a file is "not found"."""
    try:
        yield
    except FileNotFoundError:
        raise ResourceError(
            f"{path}: no files or folders can be created there; choose a folder on a disk"
        ) from None


@contextmanager
def staged_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path`, complete and durable, when the context ends.

    An exception inside the context removes the temporary file and leaves `path` unchanged.
    """
    temporary = _begin(path)
    with _explain_creation_errors(path):
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
    """Hard-link a file that never changes to `path`, durably; copy it where links are impossible.

    `path` must not exist. Returns whether it is a link.
    """
    with _explain_creation_errors(path):
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
    """Write a value in the form of `readable_json`, durably."""
    write_bytes(path, readable_json(value))


def readable_json(value: Any) -> bytes:
    """Serialise to the JSON form that is stored: sorted keys, indented by two spaces, no NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, hashed and durable, when the context ends.

    An existing `path` is replaced only after the new folder is complete.
    """
    temporary = _begin(path)
    shutil.rmtree(temporary, ignore_errors=True)
    with _explain_creation_errors(path):
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
    """Seal a finished folder and rename it to `path`, replacing an existing folder."""
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
    """Flush every file of a folder to disk, then write its manifest of sizes and hashes."""
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
    """Verify a sealed folder; return one line per fault, none if every byte is as written.

    names: check only these files, for a folder that may hold others. Raises OSError for a file
    that cannot be read, because it may be intact.
    """
    try:
        listed = read_json(folder / MANIFEST)["files"]
        expected = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        if not (folder / MANIFEST).exists():
            return [f"{folder / MANIFEST}: missing, so the folder was never completed"]
        return [f"{folder / MANIFEST}: damaged, because it is not a manifest"]
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
            faults.append(f"{folder / name}: its sha256 differs from the recorded one")
    return faults


def _contents(folder: Path) -> list[Path]:
    """Return the files that a folder's manifest lists, sorted, including nested manifests.

    Raises OSError if a folder cannot be listed, because its files are then unknown, not missing.
    """
    found = (Path(place) / n for place, _, names in os.walk(folder, onerror=_fail) for n in names)
    return sorted(p for p in found if p.is_file() and p != folder / MANIFEST)


def _fail(error: OSError) -> NoReturn:
    raise error


def is_temporary(path: Path, name: str) -> bool:
    """Return whether a path is a temporary file of a killed writer of `name`."""
    return path.name.startswith(f"{name}{_TEMPORARY}")


def remove_temporaries(folder: Path) -> None:
    """Delete temporary files of killed writers; the caller holds the folder's lock."""
    for leftover in folder.glob(f"*{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


@contextmanager
def lock(folder: Path, *, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Lock a folder for one writer; the lock is released when the process ends in any way.

    Yields a function that makes the lock shared, so that processes which call `lock` with `shared`
    can hold it too. Raises ResourceError if another process holds the lock, or if the folder is
    removed, renamed or replaced while it is held. On a file system without locks a warning is
    logged.
    """
    with _explain_creation_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    _held[descriptor] = folder.absolute()
    try:
        _flock(folder, descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield lambda: _flock(folder, descriptor, fcntl.LOCK_SH)
        check_held(folder)
    except Exception as error:
        try:
            check_held(folder)  # if the folder is gone, `error` is only a consequence
        except ResourceError as gone:
            raise gone from error
        raise
    finally:
        del _held[descriptor]
        os.close(descriptor)


def check_held(path: Path) -> None:
    """Raise ResourceError if a locked folder that contains `path` was removed or replaced."""
    where = path.absolute()
    for descriptor, folder in _held.items():
        if where.is_relative_to(folder) and not _is_same(descriptor, folder):
            raise ResourceError(
                f"{folder}: was removed, renamed or replaced while it was written to, so writing "
                "stopped. Put it back and continue, or start again in a new folder"
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
            f"{folder}: another process is writing to this folder; wait for it to end, "
            "or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        logger.warning(
            "%s: the file system has no locks (%s); make sure that no other process writes there",
            folder,
            error,
        )


_held: dict[int, Path] = {}


def _drop_inherited_locks() -> None:
    """Close inherited locks in a forked child, such as a loader's worker.

    Otherwise the child would keep the folder locked after its parent has ended.
    """
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_inherited_locks)
