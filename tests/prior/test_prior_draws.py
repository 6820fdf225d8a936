"""draw_codes: the inverse CDF, top-k and top-p against independent arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imagetok.errors import ConfigError
from prior.sampling import draw_codes
from prior.sampling_params import SamplingParams, sampling_params

CHI_SQUARE_999 = {5: 20.515, 7: 24.322}
"""Its 0.999 quantile by degrees of freedom."""

logits_of = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 12)), elements=st.floats(-9, 9)
)
temperatures = st.sampled_from([0.3, 1.0, 2.5])


def kept_codes(p: np.ndarray, top_k: int | None, top_p: float | None) -> np.ndarray:
    """What is left of one row of probabilities, by sorting."""
    order = np.argsort(-p, kind="stable")
    kept = p.copy()
    if top_k is not None:
        kept[order[top_k:]] = 0
    if top_p is not None:
        total, so_far = kept.sum(), 0.0
        for code in order:
            if so_far >= top_p * total:
                kept[code] = 0
            so_far += p[code]
    return kept


def reference(row: np.ndarray, u: float, settings: SamplingParams) -> int:
    """The first code whose cumulative probability exceeds u, one row in numpy."""
    scaled = row / settings.temperature
    p = np.exp(scaled - scaled.max())
    p = kept_codes(p / p.sum(), settings.top_k, settings.top_p)
    cumulative = np.cumsum(p / p.sum())
    return int(min((cumulative <= u).sum(), np.flatnonzero(p)[-1]))


def support(row: np.ndarray, settings: SamplingParams) -> list[int]:
    """Every code that uniforms on a fine grid, its ends among them, can draw."""
    uniforms = torch.linspace(0, 1, 4001, dtype=torch.float64)
    uniforms[-1] = np.nextafter(1.0, 0.0)
    logits = torch.from_numpy(row).expand(len(uniforms), -1)
    return sorted(set(draw_codes(logits, uniforms, settings).tolist()))


@given(
    logits=logits_of,
    temperature=temperatures,
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.sampled_from([0.05, 0.37, 0.81, 0.999, 1.0]),
    seed=st.integers(0, 999),
)
def test_it_equals_the_inverse_cdf_in_numpy(logits, temperature, top_k, top_p, seed):
    logits += np.random.default_rng(seed).uniform(0, 1e-3, logits.shape)  # no ties
    uniforms = np.random.default_rng(seed + 1).random(len(logits))
    settings = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = draw_codes(torch.from_numpy(logits), torch.from_numpy(uniforms), settings)
    assert drawn.dtype == torch.int64
    expected = [reference(row, u, settings) for row, u in zip(logits, uniforms, strict=True)]
    assert drawn.tolist() == expected
    greedy = draw_codes(
        torch.from_numpy(logits), torch.from_numpy(uniforms), SamplingParams(greedy=True)
    )
    assert greedy.tolist() == logits.argmax(1).tolist()


@given(k=st.integers(2, 12), top_k=st.integers(1, 14), seed=st.integers(0, 999))
def test_top_k_keeps_exactly_the_k_most_likely(k, top_k, seed):
    row = np.random.default_rng(seed).uniform(-1, 1, k)
    best = sorted(np.argsort(-row)[:top_k].tolist())
    assert support(row, SamplingParams(top_k=top_k)) == best


def test_top_k_keeps_exactly_k_of_equals():
    assert len(support(np.zeros(8), SamplingParams(top_k=3))) == 3
    assert len(support(np.zeros(8), SamplingParams(top_k=8))) == 8


@given(k=st.integers(2, 12), top_p=st.floats(0.01, 0.99), seed=st.integers(0, 999))
def test_top_p_keeps_the_smallest_prefix_that_reaches_it(k, top_p, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(k)) + 0.01  # each on the grid of `support`
    p /= p.sum()
    order = np.argsort(-p)
    size = int((np.cumsum(p[order]) < top_p).sum()) + 1
    assert support(np.log(p), SamplingParams(top_p=top_p)) == sorted(order[:size].tolist())


def test_top_p_is_of_what_top_k_has_left():
    row = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    assert support(row, SamplingParams(top_p=0.65)) == [0, 1]
    assert support(row, SamplingParams(top_k=2, top_p=0.55)) == [0]  # 0.4 / 0.7 reaches it


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (SamplingParams(), 8),
        (SamplingParams(temperature=0.5), 8),
        (SamplingParams(temperature=2.0, top_k=6), 6),
        (SamplingParams(top_k=7, top_p=0.95), 6),
    ],
)
def test_frequencies_match_the_probabilities(settings, kept):
    draws = 20_000
    p = np.array([0.02, 0.3, 0.05, 0.2, 0.03, 0.15, 0.1, 0.15 + 1e-9])
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.from_numpy(np.log(p)).expand(draws, -1)
    counts = np.bincount(draw_codes(logits, uniforms, settings), minlength=8)
    scaled = p ** (1 / settings.temperature)
    left = kept_codes(scaled / scaled.sum(), settings.top_k, settings.top_p)
    expected = draws * left / left.sum()
    possible = expected > 0
    assert possible.sum() == kept
    assert (counts[~possible] == 0).all()
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    assert statistic < CHI_SQUARE_999[kept - 1]


@given(seed=st.integers(0, 999), u=st.sampled_from([0.0, 2**-60, 0.5, 1 - 2**-53]))
def test_a_code_without_probability_is_never_drawn(seed, u):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (4, 9))
    impossible = random.random((4, 9)) < 0.6
    impossible[:, random.integers(9)] = False
    logits[impossible] = -np.inf
    uniforms = torch.full((4,), u, dtype=torch.float64)
    for settings in (
        SamplingParams(),
        SamplingParams(temperature=0.3, top_k=5),
        SamplingParams(top_p=0.7),
    ):
        drawn = draw_codes(torch.from_numpy(logits), uniforms, settings).numpy()
        assert not impossible[np.arange(4), drawn].any()


def test_more_uniform_never_means_an_earlier_code():
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(0)).expand(1000, -1)
    drawn = draw_codes(logits, torch.arange(1000) / 1000, SamplingParams())
    assert (drawn.diff() >= 0).all()
    assert drawn.unique().tolist() == list(range(9))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", [0.0, -0.1, float("nan"), float("inf")]),
        ("top_k", [0, -1]),
        ("top_p", [0.0, -0.5, 1.01, float("nan")]),
        ("guidance", [-1.0, float("nan"), float("inf")]),
    ],
)
def test_settings_out_of_range_are_refused(field, values):
    for value in values:
        with pytest.raises(ConfigError, match=field):
            sampling_params(**{field: value})


@pytest.mark.parametrize("temperature", [1e-300, 5e-324])
def test_a_tiny_temperature_draws_the_most_likely_code(temperature):
    logits = torch.tensor([[1.0, 700.0, -3.0], [-2.0, -9.0, -1.0]])
    uniforms = torch.tensor([0.999, 0.001], dtype=torch.float64)
    assert draw_codes(logits, uniforms, SamplingParams(temperature=temperature)).tolist() == [1, 2]


def test_no_images_have_no_log_probabilities(flat):
    codes = tuple(torch.zeros(0, *grid, dtype=torch.int64) for grid in flat.config.grids)
    assert flat.log_prob(codes).shape == (0,)
    assert [level.shape for level in flat.log_prob_map(codes)] == [level.shape for level in codes]
    assert [level.shape for level in flat.sample(0)] == [level.shape for level in codes]
