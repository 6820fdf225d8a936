import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Gumbel, RelaxedOneHotCategorical, kl_divergence
from torch.testing import assert_close

from imagetok.quantizers.functional import (
    categorical_kl_to_uniform,
    code_sums,
    ema_increments,
    gumbel_from_uniform,
    gumbel_noise,
    look_up,
    mix_codes,
    nearest_codes,
    relaxed_codes,
)

SEEDS = st.integers(0, 2**32 - 1)
FLOAT64 = torch.float64


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relaxed(logits: torch.Tensor, temperature: float, seed: int) -> tuple[torch.Tensor, ...]:
    """Samples on the simplex, which are what mixes unit vectors, and their largest code."""
    codebook = torch.eye(logits.shape[1], dtype=logits.dtype)
    rows = logits[:, 0].numel()
    uniforms = torch.rand(rows, len(codebook), dtype=logits.dtype, generator=gen(seed))
    return relaxed_codes(logits, uniforms, codebook, torch.tensor(temperature, dtype=logits.dtype))


@given(seed=SEEDS, num_codes=st.integers(2, 32), temperature=st.floats(0.1, 5))
def test_relaxed_samples_equal_torch_distributions(
    seed: int, num_codes: int, temperature: float
) -> None:
    logits = torch.randn(2, 3, 4, num_codes, dtype=FLOAT64, generator=gen(seed))
    torch.manual_seed(seed)
    expected = RelaxedOneHotCategorical(temperature, logits=logits).rsample()
    found, indices = relaxed(logits.movedim(-1, 1), temperature, seed)
    assert_close(found.movedim(1, -1), expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(indices, expected.argmax(dim=-1))


def test_relaxed_samples_gradcheck() -> None:
    logits = torch.randn(2, 6, 2, 1, dtype=FLOAT64, generator=gen(0)).requires_grad_()
    codebook = torch.randn(6, 3, dtype=FLOAT64, generator=gen(1)).requires_grad_()
    uniforms = torch.rand(4, 6, dtype=FLOAT64, generator=gen(2))
    temperature = torch.tensor(0.7, dtype=FLOAT64)
    assert torch.autograd.gradcheck(
        lambda a, e: relaxed_codes(a, uniforms.clone(), e, temperature)[0], (logits, codebook)
    )


@given(seed=SEEDS)
def test_gumbel_noise_is_that_of_torch_distributions(seed: int) -> None:
    torch.manual_seed(seed)
    uniform = torch.rand(3, 4, 5, 6)
    noise = gumbel_noise(torch.empty(3, 4, 5, 6), gen(seed))
    assert torch.equal(noise, gumbel_from_uniform(uniform))
    eps = torch.finfo(torch.float32).eps
    # Gumbel.cdf is exp(-exp(-g)), which takes the noise back to its uniforms.
    cdf = Gumbel(torch.tensor(0.0, dtype=FLOAT64), torch.tensor(1.0, dtype=FLOAT64)).cdf(
        noise.double()
    )
    assert_close(cdf, uniform.double().clamp(eps, 1 - eps), rtol=1e-4, atol=1e-6)


def test_gumbel_noise_is_finite_at_the_ends() -> None:
    assert torch.isfinite(gumbel_from_uniform(torch.tensor([0.0, 1.0]))).all()


@given(seed=SEEDS, num_codes=st.integers(2, 32), temperature=st.floats(0.05, 5))
def test_relaxed_samples_lie_on_the_simplex(seed: int, num_codes: int, temperature: float) -> None:
    logits = 10 * torch.randn(2, num_codes, 3, 1, generator=gen(seed))
    y, _ = relaxed(logits, temperature, seed)
    assert (y >= 0).all()
    assert_close(y.sum(dim=1), torch.ones(2, 3, 1))
    shifted, _ = relaxed(logits + 5, temperature, seed)
    assert_close(shifted, y, rtol=1e-3, atol=1e-4)  # logits may be unnormalised


@given(seed=SEEDS, num_codes=st.integers(2, 300), scale=st.floats(0, 50))
def test_categorical_kl_equals_torch_distributions(seed: int, num_codes: int, scale: float) -> None:
    logits = scale * torch.randn(2, num_codes, 3, 2, dtype=FLOAT64, generator=gen(seed))
    last = logits.movedim(1, -1)
    expected = kl_divergence(Categorical(logits=last), Categorical(logits=torch.zeros_like(last)))
    found = categorical_kl_to_uniform(logits)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert (found >= -1e-12).all() and (found <= math.log(num_codes) + 1e-12).all()


def test_categorical_kl_at_its_ends() -> None:
    assert_close(categorical_kl_to_uniform(torch.full((1, 8, 1, 1), 3.0)), torch.zeros(1, 1, 1))
    certain = torch.zeros(1, 8, 1, 1).index_fill_(1, torch.tensor([2]), 1000.0)
    assert_close(categorical_kl_to_uniform(certain), torch.full((1, 1, 1), math.log(8)))


def test_categorical_kl_gradcheck() -> None:
    logits = torch.randn(1, 5, 2, 2, dtype=FLOAT64, generator=gen(0)).requires_grad_()
    assert torch.autograd.gradcheck(categorical_kl_to_uniform, logits)


@given(seed=SEEDS, num_codes=st.integers(1, 16))
def test_mixing_one_hot_weights_looks_up(seed: int, num_codes: int) -> None:
    codebook = torch.randn(num_codes, 5, generator=gen(seed))
    indices = torch.randint(num_codes, (2, 3, 4), generator=gen(seed))
    one_hot = torch.nn.functional.one_hot(indices, num_codes).float().movedim(-1, 1)
    found = look_up(indices, codebook)
    assert torch.equal(found, mix_codes(one_hot, codebook))
    assert torch.equal(found[1, :, 2, 3], codebook[indices[1, 2, 3]])


@given(
    seed=SEEDS,
    size=st.integers(1, 60),
    num_codes=st.integers(1, 40),
    chunk=st.integers(1, 70),
    dim=st.integers(1, 8),
)
def test_nearest_codes_are_those_of_brute_force(
    seed: int, size: int, num_codes: int, chunk: int, dim: int
) -> None:
    generator = gen(seed)
    vectors = torch.randn(size, dim, dtype=FLOAT64, generator=generator)
    codebook = torch.randn(num_codes, dim, dtype=FLOAT64, generator=generator)
    exact = torch.cdist(vectors, codebook, compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest_codes(vectors, codebook), exact.argmin(dim=1))
    assert torch.equal(nearest_codes(vectors, codebook, chunk), exact.argmin(dim=1))


@given(seed=SEEDS, num_codes=st.integers(1, 40), chunk=st.integers(1, 70))
def test_ties_go_to_the_lowest_code(seed: int, num_codes: int, chunk: int) -> None:
    generator = gen(seed)
    # Small integers: every distance is exact, and many are equal.
    vectors = torch.randint(-2, 3, (50, 2), generator=generator).float()
    codebook = torch.randint(-2, 3, (num_codes, 2), generator=generator).float()
    squares = (vectors[:, None] - codebook).square().sum(dim=2).tolist()
    expected = [row.index(min(row)) for row in squares]
    assert nearest_codes(vectors, codebook, chunk).tolist() == expected


@pytest.mark.parametrize("dim", [15, 16, 33])
@given(seed=SEEDS, num_codes=st.integers(3, 9))
def test_equal_codes_tie_wherever_they_are(dim: int, seed: int, num_codes: int) -> None:
    # A matrix product that rounds some columns otherwise would prefer one of the two.
    generator = gen(seed)
    codes = torch.randn(num_codes, dim, generator=generator)
    found = nearest_codes(torch.randn(64, dim, generator=generator), codes.repeat(2, 1)[:-1])
    assert found.max() < num_codes


@given(seed=SEEDS, num_codes=st.integers(1, 9))
def test_code_sums_are_those_of_each_code(seed: int, num_codes: int) -> None:
    generator = gen(seed)
    vectors = torch.randn(30, 3, dtype=FLOAT64, generator=generator)
    indices = torch.randint(num_codes, (30,), generator=generator)
    counts, sums = code_sums(vectors, indices, num_codes)
    for code in range(num_codes):
        assert counts[code] == (indices == code).sum()
        assert_close(sums[code], vectors[indices == code].sum(dim=0))


@given(seed=SEEDS, decay=st.floats(0.01, 0.999), num_codes=st.integers(1, 12))
def test_ema_equals_the_classical_quotient(seed: int, decay: float, num_codes: int) -> None:
    generator = gen(seed)
    codebook = torch.randn(num_codes, 3, dtype=FLOAT64, generator=generator)
    size = torch.ones(num_codes, dtype=FLOAT64)
    n, m = size.clone(), codebook.clone()  # the classical state, from N = 1 and m = e
    for _ in range(20):
        vectors = torch.randn(10, 3, dtype=FLOAT64, generator=generator)
        indices = torch.randint(num_codes, (10,), generator=generator)
        counts, sums = code_sums(vectors, indices, num_codes)
        codebook, size = ema_increments(codebook, size, counts, sums, decay)
        n = decay * n + (1 - decay) * counts
        m = decay * m + (1 - decay) * sums
        assert_close(size, n)
        assert_close(codebook, m / n[:, None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_unused_codes_keep_every_bit(decay: float) -> None:
    start = torch.randn(6, 3, generator=gen(0))
    codebook, size = start, torch.ones(6)
    used = torch.tensor([True, False, True, False, False, True])
    for step in range(2000):
        counts = used * 3.0
        sums = counts[:, None] * torch.randn(6, 3, generator=gen(step))
        codebook, size = ema_increments(codebook, size, counts, sums, decay)
    assert torch.equal(codebook[~used], start[~used]) and torch.isfinite(codebook).all()
    assert not torch.isclose(codebook[used], start[used]).all(dim=1).any()


@given(seed=SEEDS, num_codes=st.integers(1, 12))
def test_decay_0_is_one_k_means_step(seed: int, num_codes: int) -> None:
    generator = gen(seed)
    codebook = torch.randn(num_codes, 3, dtype=FLOAT64, generator=generator)
    vectors = torch.randn(25, 3, dtype=FLOAT64, generator=generator)
    indices = nearest_codes(vectors, codebook)
    counts, sums = code_sums(vectors, indices, num_codes)
    moved, size = ema_increments(codebook, torch.ones(num_codes, dtype=FLOAT64), counts, sums, 0.0)
    assert torch.equal(size, counts)
    for code in range(num_codes):
        members = vectors[indices == code]
        expected = members.mean(dim=0) if len(members) else codebook[code]
        assert_close(moved[code], expected)
