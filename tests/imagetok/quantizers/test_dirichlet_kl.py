"""The Dirichlet KL: mpmath proves its float64 evaluation, and that judges float32."""

import math
from collections import Counter

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.testing import assert_close

from imagetok.quantizers.functional import (
    _CODE_TERM,
    _CODE_TERM_SLOPE,
    dirichlet_kl_to_uniform,
)

SEEDS = st.integers(0, 2**32 - 1)
LARGE_K = st.sampled_from([128, 512, 1024, 8192])


def spread_logits(seed: int, num_codes: int, high: float, share: float) -> Tensor:
    """(1, K, 1, 2) float32 logits in -20..30: a share of the codes around `high`, the rest low."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, num_codes, 1, 2, generator=generator) * 2 - 4
    first = max(1, round(share * num_codes))
    logits[:, :first] = high + 0.5 * torch.randn(1, first, 1, 2, generator=generator)
    return logits.clamp(-20, 30)


def torch_kl(alpha: Tensor) -> Tensor:
    last = alpha.movedim(1, -1)
    return kl_divergence(Dirichlet(last), Dirichlet(torch.ones_like(last)))


def kl_and_gradient(logits: Tensor, kl_of: object = dirichlet_kl_to_uniform) -> tuple[Tensor, ...]:
    assert callable(kl_of)
    logits = logits.detach().requires_grad_()
    kl = kl_of(logits.exp() + 1)
    return kl.detach(), *torch.autograd.grad(kl.sum(), logits)


def exact_kl(alpha: list[float]) -> float:
    """EdVAE App. A as it is written, with 50 digits."""
    with mpmath.workdps(50):
        parts = [(mpmath.mpf(a), count) for a, count in Counter(alpha).items()]
        total = mpmath.fsum(a * count for a, count in parts)
        psi_total = mpmath.digamma(total)
        kl = mpmath.loggamma(total) - mpmath.loggamma(len(alpha))
        for a, count in parts:
            kl += count * ((a - 1) * (mpmath.digamma(a) - psi_total) - mpmath.loggamma(a))
        return float(kl)


@pytest.mark.parametrize("high", [-20, 0, 2.9, 5, 15, 20, 25, 30])
@pytest.mark.parametrize("num_codes", [2, 3, 21, 128, 512, 8192])
def test_float64_form_equals_50_digits(num_codes: int, high: float) -> None:
    generator = torch.Generator().manual_seed(num_codes)
    values = torch.randn(12, generator=generator, dtype=torch.float64) * 2 - 4
    values[:5] = high - torch.rand(5, generator=generator, dtype=torch.float64)
    # The two forms of each term meet at 20: stand on both sides.
    values[5:7] = torch.tensor([19 - 1e-9, 19 + 1e-9], dtype=torch.float64).log()
    chosen = torch.randint(12, (num_codes,), generator=generator)
    chosen[:2] = torch.tensor([0, 5])
    alpha = values.clamp(-20, 30).exp()[chosen] + 1
    found = dirichlet_kl_to_uniform(alpha.view(1, -1, 1, 1)).item()
    # At 20 the first term left out of each series is below 2e-9.
    assert abs(found - exact_kl(alpha.tolist())) <= 2e-9 * (num_codes + 1)


@pytest.mark.parametrize("r", [*(i / 64 for i in range(1, 65)), 1e-3, 1e-6, 1e-9])
def test_the_polynomials_are_those_of_the_code_term(r: float) -> None:
    """F(a) + ln(a)/2 and F'(a)/r of r = 1/a, against 50 digits."""
    with mpmath.workdps(50):
        a = 1 / mpmath.mpf(r)
        term = (a - 1) * mpmath.digamma(a) - mpmath.loggamma(a) - a + mpmath.log(a) / 2
        slope = ((a - 1) * mpmath.psi(1, a) - 1) * a
    for coefficients, exact in ((_CODE_TERM, term), (_CODE_TERM_SLOPE, slope)):
        found = sum(c * r**i for i, c in enumerate(coefficients))
        assert abs(found - float(exact)) <= 4e-9


@given(seed=SEEDS, num_codes=LARGE_K, high=st.floats(-20, 30), share=st.floats(0, 1))
def test_float32_is_accurate_for_all_logits(
    seed: int, num_codes: int, high: float, share: float
) -> None:
    logits = spread_logits(seed, num_codes, high, share)
    kl, gradient = kl_and_gradient(logits)
    exact, exact_gradient = kl_and_gradient(logits.double())
    assert kl.dtype == torch.float32
    assert ((kl - exact).abs() <= 1e-5 * exact.abs() + 1e-6 * math.lgamma(num_codes)).all()
    check_gradient(gradient, exact_gradient, logits)


@given(seed=SEEDS, num_codes=LARGE_K, high=st.floats(-20, 20), share=st.floats(0, 1))
def test_float32_gradient_matches_torch_distributions(
    seed: int, num_codes: int, high: float, share: float
) -> None:
    logits = spread_logits(seed, num_codes, high, share).clamp(max=20)
    check_gradient(
        kl_and_gradient(logits)[1], kl_and_gradient(logits.double(), torch_kl)[1], logits
    )


def check_gradient(found: Tensor, exact: Tensor, logits: Tensor) -> None:
    cosine = torch.cosine_similarity(found.double(), exact, dim=1)
    error = (found - exact).norm(dim=1)
    # Where every alpha rounds to 1 the true gradient is below what float32 can tell from 0.
    flat = logits.amax(dim=1) < -8
    assert ((cosine >= 0.9999) | flat).all()
    assert (error <= 1e-3 * exact.norm(dim=1) + 1e-6).all()


@given(seed=SEEDS, num_codes=st.integers(2, 64), high=st.floats(-20, 30), share=st.floats(0, 1))
def test_few_codes_are_accurate_too(seed: int, num_codes: int, high: float, share: float) -> None:
    logits = spread_logits(seed, num_codes, high, share)
    kl, gradient = kl_and_gradient(logits)
    exact, exact_gradient = kl_and_gradient(logits.double())
    assert ((kl - exact).abs() <= 1e-5 * exact.abs() + 1e-6 * num_codes).all()
    assert torch.isfinite(gradient).all()
    check_gradient(gradient, exact_gradient, logits)


@given(seed=SEEDS, num_codes=st.integers(2, 300))
def test_equals_torch_distributions(seed: int, num_codes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.empty(2, num_codes, 3, 2, dtype=torch.float64)
    alpha = 1 + 30 * alpha.exponential_(generator=generator)
    assert_close(
        dirichlet_kl_to_uniform(alpha), torch_kl(alpha), rtol=0, atol=2e-9 * (num_codes + 2)
    )


@given(seed=SEEDS, num_codes=st.integers(2, 300), high=st.floats(-20, 30))
def test_is_never_negative(seed: int, num_codes: int, high: float) -> None:
    logits = spread_logits(seed, num_codes, high, 0.3)
    assert (dirichlet_kl_to_uniform(logits.double().exp() + 1) >= -1e-11).all()
    assert (dirichlet_kl_to_uniform(logits.exp() + 1) >= -1e-5 * num_codes).all()


@pytest.mark.parametrize("num_codes", [2, 16, 128, 512, 8192])
def test_is_zero_at_the_prior(num_codes: int) -> None:
    alpha = torch.ones(1, num_codes, 1, 1, dtype=torch.float64, requires_grad=True)
    kl = dirichlet_kl_to_uniform(alpha)
    (gradient,) = torch.autograd.grad(kl.sum(), alpha)
    assert_close(kl.detach(), torch.zeros_like(kl), rtol=0, atol=1e-10)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)


@given(seed=SEEDS, num_codes=st.integers(2, 40))
def test_does_not_depend_on_the_order_of_codes(seed: int, num_codes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alpha = 1 + spread_logits(seed, num_codes, 10, 0.5).double().exp()
    shuffled = alpha[:, torch.randperm(num_codes, generator=generator)]
    assert_close(
        dirichlet_kl_to_uniform(shuffled), dirichlet_kl_to_uniform(alpha), rtol=1e-12, atol=1e-10
    )


@pytest.mark.parametrize("num_codes", [2, 5, 30])
def test_gradcheck(num_codes: int) -> None:
    generator = torch.Generator().manual_seed(num_codes)
    logits = torch.randn(1, num_codes, 2, 1, dtype=torch.float64, generator=generator) * 3
    logits[0, 0] = 4.0
    assert (logits > math.log(19)).any() and (logits < 0).any()
    assert torch.autograd.gradcheck(
        lambda x: dirichlet_kl_to_uniform(x.exp() + 1), logits.requires_grad_()
    )
