"""Choosing samples by index."""

import pytest

from imagetok.indices import spread


def test_indices_are_spread_from_the_first_on():
    assert list(spread(10, 4)) == [0, 2, 5, 7]
    assert list(spread(3, 8)) == list(spread(3, 3)) == [0, 1, 2]
    assert list(spread(0, 5)) == []


@pytest.mark.parametrize("total", [1, 2, 9, 100])
def test_indices_are_different_and_below_the_total(total):
    for count in range(1, 2 * total):
        found = list(spread(total, count))
        assert len(set(found)) == len(found) == min(count, total)
        assert max(found) < total and found == sorted(found)
