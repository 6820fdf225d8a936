"""Which tars a pattern stands for: files, globs, brace patterns, URLs; counted before expanded."""

import glob
import re
from pathlib import Path

import braceexpand

from imagetok.errors import ConfigError, InputError
from imagetok.io.urls import public_url

PROTOCOLS = ("http", "https", "s3", "gs", "az", "hf", "memory")
_MAX_SHARDS = 1_000_000
_MAX_NAMES = 1 << 28
_MAX_DEPTH = 50
_SHOWN = 200  # characters
_MAX_DIGITS = 18
_MAX_RANGE = 9999
"""Characters; longer numbers are none of Python's."""


def expand_shards(pattern: str) -> list[str]:
    """The tars of a brace pattern, in its order; a glob in it gives its files, sorted.

    Raises ConfigError for what is no file and no URL of a known protocol, such as `pipe:`.
    """
    where = public_url(pattern)[:_SHOWN]
    count = count_shards(pattern)
    if count > _MAX_SHARDS:
        raise ConfigError(f"{where}: stands for more than {_MAX_SHARDS:,} tars")
    if count * len(pattern) > _MAX_NAMES:
        raise ConfigError(f"{where}: stands for more than {_MAX_NAMES:,} characters of names")
    try:
        pieces = list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise ConfigError(f"{where}: Unbalanced braces") from None
    shards = []
    for piece in pieces:
        protocol, is_url, _ = piece.partition("://")
        if piece.startswith("pipe:") or (is_url and protocol not in PROTOCOLS):
            raise ConfigError(
                f"{public_url(piece)}: expected a file or a URL of {', '.join(PROTOCOLS)}; "
                "commands are not run"
            )
        if is_url:
            shards.append(piece)
            continue
        path = str(Path(piece).expanduser())
        # Path.glob takes no absolute pattern.
        found = sorted(glob.glob(path)) if glob.has_magic(path) else [path]  # noqa: PTH207
        if not found:
            raise InputError(f"{piece}: expected tars, found none; check the path")
        shards += found
    return shards


def count_shards(pattern: str) -> int:
    """How many tars a brace pattern stands for, without expanding it; `_MAX_SHARDS + 1` for more.

    Braces that are not closed are left to who expands them; ConfigError for very deep ones.
    """
    # Of every open brace: where it began, the alternatives that are complete, the last one so far.
    opened, done, last = [], [], [1]
    for found in re.finditer(r"\\.|[{},]", pattern, re.DOTALL):
        match found[0]:
            case "{":
                if len(opened) == _MAX_DEPTH:
                    raise ConfigError(
                        f"{public_url(pattern)[:_SHOWN]}: has braces in too many braces"
                    )
                opened.append(found.end())
                done.append(0)
                last.append(1)
            case "," if opened:
                done[-1] += last[-1]
                last[-1] = 1
            case "}" if opened:
                begin, count = opened.pop(), done.pop() + last.pop()
                if found.start() - begin < _MAX_RANGE:
                    count = _range(pattern[begin : found.start()]) or count
                last[-1] = min(last[-1] * count, _MAX_SHARDS + 1)
    return last[0]


def _range(text: str) -> int:
    """How many values `first..last[..step]` stands for; 0 for what is no range."""
    found = re.fullmatch(r"(?a:(-?\d+)\.\.(-?\d+)|([a-z])\.\.([a-z]))(?:\.\.-?(\d+))?", text, re.I)
    if found is None:
        return 0
    if max(len(n) for n in found.groups() if n) > _MAX_DIGITS:
        return _MAX_SHARDS + 1
    first, last = (
        (int(found[1]), int(found[2]))
        if found[1]
        else map(braceexpand.alphabet.index, (found[3], found[4]))
    )
    return abs(last - first) // max(1, int(found[5] or 1)) + 1
