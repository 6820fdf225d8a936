"""Removing temporary files of killed writers, but not those that are being written."""

import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path


def hold(descriptor: int) -> None:
    """Mark a temporary file or folder as being written for as long as the descriptor is open."""
    with suppress(OSError):  # without locks on this file system, nothing is removed either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(path: Path, marker: str) -> None:
    """Delete temporary files of killed writers of `path`, which no process marks with `hold`.

    marker: text between file name and process id in a temporary name. A folder is searched once per
    process, when its first file is written.
    """
    folder = path.parent.absolute()
    if folder not in _found:
        form = re.compile(rf"(.+){re.escape(marker)}(?:old-)?([0-9]+)")
        names = [match for p in folder.glob(f"*{marker}*") if (match := form.fullmatch(p.name))]
        _found[folder] = {}
        for match in names:
            if int(match[2]) != os.getpid():
                _found[folder].setdefault(match[1], []).append(folder / match[0])
    for leftover in _found[folder].pop(path.name, []):
        _remove_unless_held(leftover)


def _remove_unless_held(leftover: Path) -> None:
    try:
        descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # deleted in the meantime, or owned by another user
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    except OSError:
        pass  # it is being written, or the file system has no locks
    finally:
        os.close(descriptor)


_found: dict[Path, dict[str, list[Path]]] = {}
