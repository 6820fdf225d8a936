"""Values, counts and names in messages, short and on one line; suggestions for misspelt ones."""

import difflib
from collections.abc import Iterable

_MAX_SHOWN = 80
_MAX_COMPARED = 100
"""Longer names get no suggestion: comparing them takes long, and none is near."""


def shown(value: object) -> str:
    """Return a value as messages show it: its repr, of which at most 80 characters.

    >>> shown("a\tb")
    "'a\\\\tb'"

    Control and bidirectional characters are escaped, and the end of a long value is replaced by an
    ellipsis.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…")
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = f"a large {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def counted(count: int, noun: str) -> str:
    """Return `1 image`, or `1,617 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def one_line(text: str, limit: int = 500) -> str:
    """Return a text of somebody else on one line, without control characters, shortened."""
    words = " ".join(text[: 2 * limit].split())
    plain = "".join(c if c.isprintable() else "�" for c in words)
    return plain if len(plain) <= limit else f"{plain[:limit]}…"


def nearest(name: object, known: Iterable[object], count: int = 1) -> list[str]:
    """Return up to `count` known names that are similar to `name`, the most similar first.

    >>> nearest("digits/edvea", ["digits/edvae", "digits/gpt"])
    ['digits/edvae']

    Case is ignored, and `_` counts as `-`. A name of over 100 characters has no similar ones.
    """
    if isinstance(name, str) and len(name) > _MAX_COMPARED:
        return []
    alike = {_plain(one): str(one) for one in known}
    return [alike[key] for key in difflib.get_close_matches(_plain(name), alike, n=count)]


def did_you_mean(name: object, known: Iterable[object], count: int = 1) -> str:
    """Return the end of a message about an unknown name: `; did you mean 'train'?`, or ""."""
    near = nearest(name, known, count)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _plain(name: object) -> str:
    return str(name).lower().replace("_", "-")
