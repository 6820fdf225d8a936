"""RowBuffer against convolutions, and steppers: fresh weights, the full forward's codes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d, pad
from torch.testing import assert_close

from prior.base import NO_LABEL
from prior.incremental_convolution import RowBuffer, kernel_of
from prior.sampling import draw_codes
from prior.sampling_params import SamplingParams


@given(
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    depth=st.integers(1, 4),
    reach=st.integers(0, 3),
    own=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_convolution_row_by_row_and_tap_by_tap(height, width, depth, reach, own, seed):
    """Of `depth` rows and 2 * reach + 1 columns, in the last row up to the own one or before it."""
    torch.manual_seed(seed)
    batch, channels, outputs, kernel = 2, 3, 4, 2 * reach + 1
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    layer = nn.Conv2d(channels, outputs, (depth, kernel)).double().requires_grad_(False)
    layer.weight[:, :, -1, reach + own :] = 0
    expected = layer(pad(x, (reach, reach, depth - 1, 0)))
    weights = kernel_of(layer, rows=depth - 1, columns=reach + own)
    rows = RowBuffer(
        x, (batch, width), channels, depth=depth, kernel_width=kernel, taps=reach + own
    )
    for i in range(height):
        if i:
            rows.advance()
        above = rows.above(weights, weights.bias.expand(batch, -1))
        for j in range(width):
            if own:
                rows.slots[j].copy_(x[:, :, i, j])
            assert_close(above[j] + rows.windows[j] @ weights.here, expected[:, :, i, j])
            rows.slots[j].copy_(x[:, :, i, j])


@given(depth=st.integers(1, 3), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_whole_rows_with_the_current_one(depth, width, seed):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 4, width, dtype=torch.float64)
    layer = nn.Conv2d(3, 4, (depth, 3)).double().requires_grad_(False)
    expected = conv2d(pad(x, (1, 1, depth - 1, 0)), layer.weight)
    rows = RowBuffer(x, (2, width), 3, depth=depth, kernel_width=3, taps=1)
    for i in range(4):
        if i:
            rows.advance()
        rows.current.copy_(x[:, :, i].mT)
        found = rows.above(kernel_of(layer, rows=depth), x.new_zeros(2, 4), with_current=True)
        assert_close(found.permute(1, 2, 0), expected[:, :, i])


def test_a_linear_layer_is_a_kernel_of_one_tap():
    layer = nn.Linear(3, 5)
    x = torch.randn(2, 3)
    kernel = kernel_of(layer)
    assert_close(x @ kernel.here + kernel.bias, layer(x))
    assert kernel.above.shape == (5, 0)


def test_steppers_see_the_weights_of_the_moment(prior):
    labels = torch.tensor([NO_LABEL, NO_LABEL])
    prior.stepper(labels).next_logits(None)
    for parameter in prior.parameters():
        parameter.data.mul_(1.25)
    codes = tuple(torch.zeros(2, *grid, dtype=torch.int64) for grid in prior.config.grids)
    expected = prior(codes, labels)[0][:, :, 0, 0]
    assert_close(prior.stepper(labels).next_logits(None), expected, atol=1e-10, rtol=0)


def test_steppers_work_while_gradients_are_recorded(prior):
    labels = torch.tensor([NO_LABEL])
    expected = prior.stepper(labels).next_logits(None)
    found = prior.requires_grad_(True).stepper(labels).next_logits(None)
    assert torch.equal(found, expected)


def test_steppers_of_one_preparation_do_not_meet(prior):
    """Image by image as side by side."""
    start, labels = prior.prepare(), torch.tensor([NO_LABEL])
    one, other = start(labels), start(labels)
    first, last = (torch.tensor([code]) for code in (0, prior.config.num_codes[0] - 1))
    alone = prior.stepper(labels)
    alone.next_logits(None)
    one.next_logits(None)
    other.next_logits(None)
    other.next_logits(last)
    assert torch.equal(one.next_logits(first), alone.next_logits(first))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_same_uniforms_give_the_codes_of_the_full_forward(flat, guidance):
    settings = SamplingParams(guidance=guidance)
    height, width = flat.config.grids[0]
    labels = torch.tensor([0, 1, 2, 0])
    uniforms = torch.rand(4, height * width, generator=torch.Generator().manual_seed(0))
    steppers = [flat.stepper(labels), flat.stepper(torch.full_like(labels, NO_LABEL))]
    codes, previous = torch.zeros(4, height, width, dtype=torch.int64), None
    for t in range(height * width):
        i, j = divmod(t, width)
        full = [flat((codes,), one)[0][:, :, i, j] for one in (labels, torch.full_like(labels, -1))]
        cached = [stepper.next_logits(previous) for stepper in steppers]
        expected, previous = (
            draw_codes(null + guidance * (given - null), uniforms[:, t], settings)
            for given, null in (full, cached)
        )
        assert torch.equal(previous, expected)
        codes[:, i, j] = expected
