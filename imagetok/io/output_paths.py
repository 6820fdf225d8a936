"""Where results are written: refused before any work, where it can be seen to fail at its end."""

from pathlib import Path

from imagetok.errors import ConfigError


def output_folder(out: Path | str | None) -> Path | None:
    """A folder to write into, which may not be there yet; None for nothing to write.

    Raises ConfigError where a file has that name.
    """
    if out is None:
        return None
    if Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"out {out}: expected a folder, found a file; choose another")
    return Path(out)


def output_file(out: Path | str | None) -> Path | None:
    """A file to write; None for nothing to write. Raises ConfigError where it is a folder."""
    if out is None:
        return None
    if Path(out).is_dir():
        raise ConfigError(f"out {out}: expected a file name, found a folder; add a name to it")
    return Path(out)
