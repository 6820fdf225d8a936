"""Labels of two datasets meet by the names of their classes."""

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import lists, permutations, text

from imagetok.data import NO_LABEL
from imagetok.data.class_names import both_lists, match_classes

NAMES = lists(text(max_size=3), min_size=1, max_size=8, unique=True)


@given(NAMES.flatmap(lambda names: permutations(names).map(lambda other: (names, other))))
def test_a_renumbered_label_has_the_same_name(both):
    found, expected = both
    match = match_classes(found, expected)
    labels = torch.tensor([*range(len(found)), NO_LABEL])
    renumbered = match.renumbered(labels).tolist()
    assert [expected[n] for n in renumbered[:-1]] == found
    assert renumbered[-1] == NO_LABEL and match.missing == ()
    assert match.is_same == (list(found) == list(expected))


def test_a_part_of_the_classes_matches_and_others_are_missing():
    assert match_classes(("c", "a"), ("a", "b", "c")).numbers == (2, 0)
    match = match_classes(("c", "d", "a", "e"), ("a", "b", "c"))
    assert match == ((2, NO_LABEL, 0, NO_LABEL), ("d", "e"))
    assert both_lists(("a", "d"), ("a", "b")) == (
        "2 (a, b), found 2 (a, d), of which d is not expected"
    )
    assert both_lists((), tuple("abcdefghijkl")).startswith("12 (a, b, ") and "..." in both_lists(
        (), tuple("abcdefghijkl")
    )


@pytest.mark.parametrize("found, expected", [("aab", "abc"), ("ab", "aab")])
def test_a_name_of_two_classes_matches_none(found, expected):
    assert match_classes(tuple(found), tuple(expected)).missing == ("a",)
    assert match_classes(tuple("aab"), tuple("aab")).is_same


def test_accents_of_either_unicode_form_are_the_same_name():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert match_classes((decomposed, "a"), ("a", composed)) == ((1, 0), ())
    assert match_classes((composed, decomposed), (composed,)).missing == (composed, decomposed)
