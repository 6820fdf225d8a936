"""Values, names and counts in messages: short, on one line, with suggestions for misspelt names."""

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


def one_line(text: str, limit: int = 500) -> str:
    """Return a text of somebody else on one line, without control characters, shortened."""
    words = " ".join(text[: 2 * limit].split())
    plain = "".join(c if c.isprintable() else "�" for c in words)
    return plain if len(plain) <= limit else f"{plain[:limit]}…"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the singular or plural.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "class"), counted(0, "copy")
    ('1 image', '1,200 images', '2 classes', '0 copies')

    plural: a plural that does not end in s, or that of a noun whose last word is not the noun.
    """
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def are(count: int) -> str:
    """Return the verb after a number of things: `is` or `are`."""
    return "is" if count == 1 else "are"


def all_of(count: int, noun: str) -> str:
    """Return all of a number of things: `all 12 images`, but `the only image`."""
    return f"the only {noun}" if count == 1 else f"all {counted(count, noun)}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in {*"aeiou"}:
        return f"{noun[:-1]}ies"
    return f"{noun}s"


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
