"""Checks of the arguments that a caller passes to functions."""

from operator import index
from pathlib import Path

from imagetok.errors import ConfigError
from imagetok.suggestions import shown


def checked_count(name: str, value: object, least: int = 1) -> int:
    """Return a whole number of `least` or more; ConfigError, naming the argument, for others.

    Integers of numpy and torch are accepted; texts, floats and truth values are not.
    """
    try:
        if not isinstance(value, bool) and (number := index(value)) >= least:  # pyright: ignore[reportArgumentType]
            return number
    except TypeError:
        pass
    raise ConfigError(f"{name}: expected a whole number of {least} or more, found {shown(value)}")


def checked_path(name: str, value: object) -> None:
    """Raise ConfigError, naming the argument, for anything but a path or its text."""
    if not isinstance(value, str | Path):
        raise ConfigError(f"{name}: expected a path, found {type(value).__name__}")
