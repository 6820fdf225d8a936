"""Expanding tar patterns (files, globs, brace patterns, URLs), with a limit on their number."""

import glob
import re
from pathlib import Path

import braceexpand

from imagetok.errors import ConfigError, InputError
from imagetok.io.url_secrets import public_url

PROTOCOLS = ("http", "https", "s3", "gs", "az", "hf", "memory")
_MAX_SHARDS = 1_000_000
_MAX_NAMES = 1 << 28
_MAX_DEPTH = 50
_SHOWN = 200  # characters
_MAX_DIGITS = 18
_MAX_RANGE = 9999
"""Longest range, in characters, that is counted as one; braceexpand rejects longer numbers."""


def expand_shards(pattern: str) -> list[str]:
    """Return the tars of a brace pattern in its order; a glob expands to its files, sorted.

    Raises ConfigError for too many tars, unbalanced braces, and anything but a file or a URL of a
    known protocol, such as `pipe:`; InputError for a glob without files.
    """
    where = public_url(pattern)[:_SHOWN]
    count = count_shards(pattern)
    if count > _MAX_SHARDS:
        raise ConfigError(
            f"{where}: expected a pattern of at most {_MAX_SHARDS:,} tars, found more"
        )
    if count * len(pattern) > _MAX_NAMES:
        raise ConfigError(
            f"{where}: expected a pattern of at most {_MAX_NAMES:,} characters of names, found more"
        )
    try:
        pieces = list(braceexpand.braceexpand(pattern))
    except ValueError:
        raise ConfigError(
            f"{where}: expected balanced braces, found one without its pair"
        ) from None
    shards = []
    for piece in pieces:
        protocol, is_url, _ = piece.partition("://")
        if piece.startswith("pipe:") or (is_url and protocol not in PROTOCOLS):
            raise ConfigError(
                f"{public_url(piece)}: expected a file or a URL with one of the protocols "
                f"{', '.join(PROTOCOLS)}; shell commands are not run"
            )
        if is_url:
            shards.append(piece)
            continue
        path = str(Path(piece).expanduser())
        # Path.glob does not accept absolute patterns.
        found = sorted(glob.glob(path)) if glob.has_magic(path) else [path]  # noqa: PTH207
        if not found:
            raise InputError(f"{piece}: expected tars, found none; check the path")
        shards += found
    return shards


def count_shards(pattern: str) -> int:
    """Return the number of tars of a brace pattern without expanding it; capped at 1,000,001.

    Unbalanced braces are not detected here. Raises ConfigError for braces nested too deeply.
    """
    # Per open brace: its position, the count of complete alternatives, the count of the last one.
    opened, done, last = [], [], [1]
    for found in re.finditer(r"\\.|[{},]", pattern, re.DOTALL):
        match found[0]:
            case "{":
                if len(opened) == _MAX_DEPTH:
                    raise ConfigError(
                        f"{public_url(pattern)[:_SHOWN]}: expected at most {_MAX_DEPTH} nested "
                        "braces, found more"
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
    """Return the number of values of a range `first..last[..step]`; 0 for any other text."""
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
