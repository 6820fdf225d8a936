"""The order of codes: coarse to fine, each level in raster order."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from prior.sequence import flatten_codes, level_of_positions, unflatten_codes

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
