"""Checking output paths before any work is done."""

from pathlib import Path

from imagetok.errors import ConfigError


def output_folder(out: Path | str | None) -> Path | None:
    """Return the path of an output folder, which need not exist; None if `out` is None.

    Raises ConfigError if it is a file.
    """
    if out is None:
        return None
    if Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"out {out}: expected a folder, found a file; choose another")
    return Path(out)


def new_folder(out: Path | str) -> Path:
    """Return the path of an output folder that must not hold anything yet.

    Raises ConfigError for a file, or a folder that is not empty.
    """
    folder = output_folder(Path(out))
    assert folder is not None
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: the folder is not empty; choose another --out")
    return folder


def output_file(out: Path | str | None) -> Path | None:
    """Return the path of an output file; None if `out` is None. ConfigError if it is a folder."""
    if out is None:
        return None
    if Path(out).is_dir():
        raise ConfigError(f"out {out}: expected a file name, found a folder; add a name to it")
    return Path(out)
