"""Locations and sizes of the caches for downloads, compiled kernels and image headers."""

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 2.0
"""Seconds for measuring all caches, because folders on a network can hold millions of files."""


@dataclass(frozen=True)
class Cache:
    """A folder that imagetok or its libraries fill and that can be deleted safely."""

    path: Path
    bytes: int | None
    """Size of its files; None if the folder does not exist yet."""
    is_whole: bool = True
    """Whether all files were counted; False if the time was up before."""

    def __str__(self) -> str:
        if self.bytes is None:
            return f"{shareable(self.path)} (empty)"
        more = "" if self.is_whole else "more than "
        return f"{shareable(self.path)} ({more}{size_text(self.bytes)})"


def find_caches() -> dict[str, Cache]:
    """Return the caches of imagetok and of the libraries that it uses, by content."""
    import torch
    from huggingface_hub import constants

    datasets = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")
    folders = {
        "Hub": Path(constants.HF_HUB_CACHE),
        "datasets": Path(datasets),
        "torch.hub": Path(torch.hub.get_dir()),
        "torch.compile": _compiled(),
        "image headers": header_cache().parent,
    }
    deadline = time.monotonic() + _PATIENCE
    return {name: _measured(folder.expanduser(), deadline) for name, folder in folders.items()}


def header_cache() -> Path:
    """Return the path of imagetok's cache of image headers, a SQLite file."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base, "imagetok", "headers.sqlite").expanduser()


def size_text(count: int) -> str:
    """Format a number of bytes: `1.4 GiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def shareable(text: object) -> str:
    """Return a path, or a list of paths, without the user's name; the home folder becomes `~`."""
    shown, home = str(text), Path.home()
    for folder in (home, home.resolve()):
        if len(folder.parts) > 1:  # the home of some system users is `/`
            parts = shown.split(str(folder))
            # `/home/anna` begins with `/home/ann` too.
            for i, part in enumerate(parts[1:], 1):
                parts[i] = ("~" if part[:1] in ("", "/", ":", ",") else str(folder)) + part
            shown = "".join(parts)
    return shown.replace(_compiled_name(), "torchinductor_USER")


def _compiled() -> Path:
    """Return the cache of torch.compile by torch's rule, without importing its slow compiler."""
    setting = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(setting) if setting else Path(tempfile.gettempdir(), _compiled_name())


def _compiled_name() -> str:
    try:
        return f"torchinductor_{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "torchinductor_USER"


def _measured(folder: Path, deadline: float) -> Cache:
    if not folder.is_dir():
        return Cache(folder, None)
    total = 0
    for size in _sizes(folder):
        total += size
        if time.monotonic() > deadline:
            return Cache(folder, total, is_whole=False)
    return Cache(folder, total)


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes of the files below a folder; links are not followed, errors are ignored."""
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(root, name).lstat().st_size
            except OSError:  # deleted in the meantime
                continue
