"""What was probably meant by a name that is not known: every "did you mean" comes from here."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[object], count: int = 1) -> list[str]:
    """Up to `count` known names that look like `name`, the most similar first.

    >>> nearest("digits/edvea", ["digits/edvae", "digits/gpt"])
    ['digits/edvae']

    Upper and lower case are alike, and of `_` and `-` neither differs from the other.
    """
    alike = {_plain(one): str(one) for one in known}
    return [alike[key] for key in difflib.get_close_matches(_plain(name), alike, n=count)]


def did_you_mean(name: object, known: Iterable[object], count: int = 1) -> str:
    """The end of a message that refuses `name`: `; did you mean 'train'?`, or nothing."""
    near = nearest(name, known, count)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
