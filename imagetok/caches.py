"""Where downloads and compiled kernels are kept on this machine, and how large they are."""

import getpass
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 2.0
"""Seconds for all caches together: folders on a network can hold millions of files."""


@dataclass(frozen=True)
class Cache:
    """A folder that libraries fill and that may be deleted."""

    path: Path
    bytes: int | None
    """Of its files; None where there is no such folder yet."""
    is_whole: bool = True
    """Whether all files were counted, or the time for it was up."""

    def __str__(self) -> str:
        if self.bytes is None:
            return f"{shareable(self.path)} (empty)"
        more = "" if self.is_whole else "more than "
        return f"{shareable(self.path)} ({more}{size_text(self.bytes)})"


def find_caches() -> dict[str, Cache]:
    """The caches of the libraries that imagetok downloads and compiles with, by what they hold."""
    import torch
    from huggingface_hub import constants

    datasets = os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME, "datasets")
    folders = {
        "Hub": Path(constants.HF_HUB_CACHE),
        "datasets": Path(datasets),
        "torch.hub": Path(torch.hub.get_dir()),
        "torch.compile": _compiled(),
    }
    deadline = time.monotonic() + _PATIENCE
    return {name: _measured(folder.expanduser(), deadline) for name, folder in folders.items()}


def size_text(count: int) -> str:
    """A number of bytes for people: `1.4 GiB`."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def shareable(text: object) -> str:
    """A path, or a list of them, without the user's name: the home folder is `~`."""
    shown, home = str(text), Path.home()
    for folder in (home, home.resolve()):
        if len(folder.parts) > 1:  # the home of some system users is the root of all paths
            parts = shown.split(str(folder))
            # `/home/ann` is the beginning of `/home/anna`, too.
            for i, part in enumerate(parts[1:], 1):
                parts[i] = ("~" if part[:1] in ("", "/", ":", ",") else str(folder)) + part
            shown = "".join(parts)
    return shown.replace(_compiled_name(), "torchinductor_USER")


def _compiled() -> Path:
    """As torch finds it; asking torch imports its compiler, which takes seconds."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(given) if given else Path(tempfile.gettempdir(), _compiled_name())


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
    """Of the files below a folder, without following links; what may not be read is left out."""
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(root, name).lstat().st_size
            except OSError:  # deleted meanwhile
                continue
