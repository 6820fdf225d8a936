"""Suggestions for misspelt names; every "did you mean" message uses this module."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[object], count: int = 1) -> list[str]:
    """Return up to `count` known names that are similar to `name`, the most similar first.

    >>> nearest("digits/edvea", ["digits/edvae", "digits/gpt"])
    ['digits/edvae']

    Case is ignored, and `_` counts as `-`.
    """
    alike = {_plain(one): str(one) for one in known}
    return [alike[key] for key in difflib.get_close_matches(_plain(name), alike, n=count)]


def did_you_mean(name: object, known: Iterable[object], count: int = 1) -> str:
    """Return the end of a message about an unknown name: `; did you mean 'train'?`, or ""."""
    near = nearest(name, known, count)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
