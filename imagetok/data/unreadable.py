"""Images that cannot be read: their records, and how many of them are allowed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from imagetok.errors import ConfigError, InputError
from imagetok.suggestions import counted

SHOWN = 5
"""Number of unreadable images that a message names."""


@dataclass(frozen=True)
class Unreadable:
    """One image that cannot be read."""

    index: int
    """Its index in the dataset."""
    path: str
    reason: str
    """One of `image_decoding.Reason`."""


def parse_allowance(text: str, inputs: int) -> int:
    """Return how many of `inputs` images `N` or `P%` allows to skip; ConfigError if malformed."""
    is_share = text.endswith("%")
    form = r"[0-9]+(\.[0-9]+)?%" if is_share else "[0-9]+"
    if not re.fullmatch(form, text) or (is_share and Fraction(text[:-1]) > 100):
        raise ConfigError(f"--max-skip: expected a count or a percentage like 0.5%, found {text!r}")
    # Exact fractions, because in floating point 0.57 % of 100,000 is 569.
    return int(inputs * Fraction(text[:-1]) / 100) if is_share else int(text)


def allowance_for(found: int, total: int) -> int:
    """Return an allowance that will do if `found` of `total` images are unreadable so far.

    It leaves room for one more in a hundred, because damage in the middle of a file is only found
    when the file is decoded.
    """
    return min(total, found + max(1, total // 100))


def listed(images: Sequence[Unreadable]) -> str:
    """Return the first images with their reasons for a message, one a line."""
    lines = "".join(f"\n  {image.path}: {image.reason}" for image in images[:SHOWN])
    more = f"\n  and {len(images) - SHOWN:,} more" if len(images) > SHOWN else ""
    return lines + more


def refuse_beyond(
    skipped: Sequence[Unreadable], allowed: int, total: int, what: str, remedy: str = ""
) -> None:
    """Raise InputError if more images are unreadable than allowed.

    total: number of images. what: their name for the message, such as "photos:test". remedy: more
    than what is said anyway.
    """
    if len(skipped) > allowed:
        raise InputError(
            f"{what}: {len(skipped):,} of {counted(total, 'image')} cannot be read, and --max-skip "
            f"allows {allowed:,}:{listed(skipped)}\n"
            "mend or replace them, or allow them with --max-skip "
            f"{allowance_for(len(skipped), total)}{remedy}"
        )


def left_out_words(count: int) -> str:
    """Return how many images are left out, as the end of a line; empty for none."""
    return f" ({count:,} left out as unreadable)" if count else ""


def skipped_row(skipped: Sequence[Unreadable]) -> dict[str, object]:
    """Return the row of a table with the number of images that are left out; empty for none."""
    return {"images left out, unreadable": len(skipped)} if skipped else {}
