"""Matching the labels of two datasets by the names of their classes, never by number alone."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from imagetok.data.base import NO_LABEL
from imagetok.suggestions import shown

_SHOWN = 10


class ClassMatch(NamedTuple):
    """How the labels of one dataset are numbered in another one."""

    numbers: tuple[int, ...]
    """The number in the other dataset for each class, NO_LABEL for a class that it lacks."""
    missing: tuple[str, ...]
    """The classes that the other dataset lacks, or of which it has several of one name."""

    @property
    def is_same(self) -> bool:
        """Whether every label keeps its number."""
        return self.numbers == tuple(range(len(self.numbers)))

    def renumbered(self, labels: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return labels as the other dataset numbers them; NO_LABEL stays."""
        if self.is_same:
            return labels
        table = torch.tensor([*self.numbers, NO_LABEL], device=labels.device)
        return table[labels]  # -1 is the last entry


def match_classes(found: Sequence[str], expected: Sequence[str]) -> ClassMatch:
    """Match classes by name: those of labels that were found, and those that are expected.

    The same characters in another Unicode form, as macOS writes accents, are the same name.

    >>> match_classes(["dog", "cat"], ["bird", "cat", "dog"]).numbers
    (2, 1)
    """
    if tuple(found) == tuple(expected):
        return ClassMatch(tuple(range(len(found))), ())
    lists = [composed(name) for name in found], [composed(name) for name in expected]
    number = {name: i for i, name in enumerate(lists[1])}
    twice = {name for names in lists for name, n in Counter(names).items() if n > 1}
    numbers = [NO_LABEL if name in twice else number.get(name, NO_LABEL) for name in lists[0]]
    missing = [name for name, n in zip(found, numbers, strict=True) if n == NO_LABEL]
    return ClassMatch(tuple(numbers), tuple(dict.fromkeys(missing)))


def composed(name: str) -> str:
    """Return a name with each accented letter as one character (Unicode's form NFC)."""
    return unicodedata.normalize("NFC", name)


def in_spelling_of(text: str, names: Sequence[str]) -> str:
    """Return the only one of some names that equals a text in any Unicode form, else the text."""
    if text in names:
        return text
    same = [name for name in names if composed(name) == composed(text)]
    return same[0] if len(same) == 1 else text


def both_lists(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return the middle of a message on classes that differ: those expected and those found.

    >>> both_lists(["dog", "zebra"], ["cat", "dog"])
    '2 (cat, dog), found 2 (dog, zebra), of which zebra is not expected'
    """
    missing = match_classes(found, expected).missing
    verb = "is" if len(missing) == 1 else "are"
    more = f", of which {_listed(missing)} {verb} not expected" if missing else ""
    return f"{_counted(expected)}, found {_counted(found)}{more}"


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,} ({_listed(names)})" if names else "none"


def _listed(names: Sequence[str]) -> str:
    some = [shown(name)[1:-1] for name in names[:_SHOWN]]
    return ", ".join([*some, "..."] if len(names) > _SHOWN else some)
