"""What killed writers leave behind under temporary names: told from what is being written."""

import fcntl
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path


def hold(descriptor: int) -> None:
    """Say that a temporary file or folder is being written, while the descriptor is open."""
    with suppress(OSError):  # no locks here: then nothing is removed either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_leftovers(path: Path, marker: str) -> None:
    """Delete what writers of `path` left when they were killed: temporaries that nobody holds.

    marker: between the name and the process in a temporary name. A folder is looked through once
    a process, when its first file is written.
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
    except OSError:  # gone meanwhile, or somebody else's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    except OSError:
        pass  # it is being written, or there are no locks here
    finally:
        os.close(descriptor)


_found: dict[Path, dict[str, list[Path]]] = {}
