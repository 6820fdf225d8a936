"""The order of codes: coarse to fine, each level in raster order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagetok.errors import ConfigError
from prior.sequence import flatten_codes, kept_positions, level_of_positions, unflatten_codes

sides = st.integers(1, 5)
grids_of = st.lists(st.tuples(sides, sides), min_size=1, max_size=3).map(tuple)


@given(grids=grids_of, n=st.integers(0, 3))
def test_unflatten_is_the_inverse_of_flatten(grids, n):
    length = sum(h * w for h, w in grids)
    sequence = torch.arange(n * length).view(n, length)
    codes = unflatten_codes(sequence, grids)
    assert [tuple(level.shape) for level in codes] == [(n, h, w) for h, w in grids]
    assert torch.equal(flatten_codes(codes), sequence)
    for level, again in zip(codes, unflatten_codes(flatten_codes(codes), grids), strict=True):
        assert torch.equal(level, again)


@given(grids=grids_of)
def test_each_level_in_raster_order_after_the_coarser_ones(grids):
    codes = tuple(
        1000 * level + torch.arange(h * w).view(1, h, w) for level, (h, w) in enumerate(grids)
    )
    sequence = flatten_codes(codes)[0].tolist()
    assert sequence == sorted(sequence)
    assert [code // 1000 for code in sequence] == level_of_positions(grids)


@given(grids=grids_of, data=st.data())
def test_kept_positions_are_the_upper_part_of_every_level(grids, data):
    fewest = min(h for h, _ in grids)
    keep_rows = data.draw(st.integers(0, fewest))
    if any(keep_rows * h % fewest for h, _ in grids):
        with pytest.raises(ConfigError, match=rf"no whole number.*possible: \[0, .*{fewest}\]"):
            kept_positions(grids, keep_rows)
        return
    kept = torch.tensor([kept_positions(grids, keep_rows)])
    for level in unflatten_codes(kept, grids):
        rows = level[0].all(1).tolist()
        assert rows == level[0].any(1).tolist()  # whole rows
        assert rows == sorted(rows, reverse=True)  # the upper ones
        assert sum(rows) * fewest == keep_rows * len(rows)  # the same part of the height


@pytest.mark.parametrize("keep_rows", [-1, 3])
def test_more_rows_than_there_are_cannot_be_kept(keep_rows):
    with pytest.raises(ConfigError, match=rf"0 to 2 .the codes are 4 x 5 and 2 x 3.*{keep_rows}"):
        kept_positions(((4, 5), (2, 3)), keep_rows)
