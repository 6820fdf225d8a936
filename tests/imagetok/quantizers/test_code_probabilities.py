"""The entropy penalty: identities, bounds, published code, and pieces of rows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from imagetok import seeding
from imagetok.quantizers import Quantizer, VQConfig, VQEMAConfig, build_quantizer, fused
from imagetok.quantizers.code_probabilities import code_entropies, distance_factors, index_gradient

PUBLISHED: dict[str, Any] = json.loads(
    Path(__file__).with_name("published_quantizers.json").read_text()
)
FLOAT64 = torch.float64
SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def restated(logits: Tensor) -> tuple[Tensor, Tensor]:
    p = logits.softmax(dim=1)
    mean = p.mean(dim=0)
    return -(p * logits.log_softmax(dim=1)).sum(dim=1).mean(), (mean * mean.log()).sum()


@pytest.mark.parametrize("cache", [1, 50, 1 << 19])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.7, 2.0)])
def test_values_and_gradients_are_those_of_the_formula(monkeypatch, cache, weights):
    monkeypatch.setattr(fused, "_IN_CACHE", cache)
    z, codes = drawn(0, 11, 4).requires_grad_(), drawn(1, 7, 4).requires_grad_()
    found, expected = code_entropies(z, codes, 0.3), restated(z @ codes.T / 0.3)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    gradients = (
        torch.autograd.grad(weights[0] * entropy + weights[1] * diversity, [z, codes])
        for entropy, diversity in (found, expected)
    )
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


@given(seed=SEEDS, num_codes=st.integers(2, 40), temperature=st.floats(1e-3, 10))
def test_the_sum_is_minus_a_mutual_information(seed, num_codes, temperature):
    z, codes = drawn(seed, 9, 3), drawn(seed + 1, num_codes, 3)
    entropy, diversity = code_entropies(z, codes, temperature)
    top = math.log(num_codes) + 1e-9
    assert -1e-9 <= entropy <= top and -top <= diversity <= 1e-9
    assert -min(top, math.log(9) + 1e-9) <= entropy + diversity <= 1e-9


def test_equal_logits_give_log_k_and_one_code_for_each_position_0_and_minus_log_k():
    for found, expected in (
        (
            code_entropies(torch.zeros(5, 3), drawn(0, 8, 3).float(), 0.01),
            (math.log(8), -math.log(8)),
        ),
        (code_entropies(100 * torch.eye(8), torch.eye(8), 0.01), (0.0, -math.log(8))),
        (code_entropies(100 * torch.eye(8)[[2, 2]], torch.eye(8), 0.01), (0.0, 0.0)),
    ):
        assert_close(torch.stack(found), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_probability_0_and_long_features_have_finite_gradients():
    z = (1e3 * drawn(0, 6, 4)).float().requires_grad_()
    codes = drawn(1, 50, 4).float().requires_grad_()
    penalty = torch.stack(code_entropies(z, codes, 0.01)).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(penalty, [z, codes]))


def test_distance_factors_have_the_softmax_of_distances():
    z, codes = drawn(0, 6, 4), drawn(1, 5, 4)
    left, right = distance_factors(z, codes)
    distances = torch.cdist(z, codes).square()
    assert_close((2 * left @ right.T).softmax(dim=1), (-distances).softmax(dim=1))


def test_the_gradient_of_the_index_is_that_of_the_straight_through_one_hot():
    z, codes, seen = (
        drawn(0, 6, 4).requires_grad_(),
        drawn(1, 5, 4).requires_grad_(),
        drawn(2, 6, 4),
    )
    soft = (z @ codes.T).softmax(dim=1)
    one_hot = torch.nn.functional.one_hot(soft.argmax(dim=1), 5).double() + soft - soft.detach()
    expected = torch.autograd.grad((seen * (one_hot @ codes)).sum(), [z, codes])
    output = codes[soft.argmax(dim=1)] + index_gradient(z, codes)
    assert torch.equal(output, codes[soft.argmax(dim=1)])
    for one, other in zip(
        torch.autograd.grad((seen * output).sum(), [z, codes]), expected, strict=True
    ):
        assert_close(one, other)


def vq(config: VQConfig | VQEMAConfig) -> Quantizer:
    seeding.reseed_global(0)
    return build_quantizer(config).double()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_the_penalty_of_a_nearest_code_quantizer_is_that_of_its_distances(distance):
    sizes = {"num_codes": 6, "code_dim": 3, "init": "normal", "distance": distance}
    plain, penalised = (vq(VQConfig(**sizes, entropy_temperature=t)) for t in (None, 0.2))
    h = drawn(0, 2, 3, 2, 2).requires_grad_()
    out, before = penalised(h), plain(h)
    z, codes = h.movedim(1, -1).flatten(0, 2), penalised.get_parameter("codebook")
    if distance == "cosine":
        z, codes = normalize(z), normalize(codes)
    expected = restated(-torch.cdist(z, codes).square() / 0.2)
    found = out.losses["sample_entropy"], out.losses["diversity"]
    parts = [h, penalised.get_parameter("codebook")]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
        gradients = (torch.autograd.grad(v, parts, retain_graph=True) for v in (one, other))
        for a, b in zip(*gradients, strict=True):
            assert_close(a, b)
    assert torch.equal(out.z_q, before.z_q)
    assert all(torch.equal(out.losses[name], before.losses[name]) for name in before.losses)


def test_the_penalty_of_moving_averages_moves_the_encoder_alone():
    quantizer = vq(VQEMAConfig(num_codes=6, code_dim=3, init="normal", entropy_temperature=0.2))
    h = drawn(0, 2, 3, 2, 2).requires_grad_()
    out = quantizer(h)
    (out.losses["sample_entropy"] + out.losses["diversity"]).backward()
    assert h.grad is not None and h.grad.any() and not list(quantizer.parameters())


def test_the_penalty_is_llamagens():
    """Up to its 1e-5 inside of logarithms, which keeps the mean's entropy a little lower."""
    published = PUBLISHED["llamagen"]
    config = VQConfig(num_codes=5, code_dim=3, distance="cosine", entropy_temperature=0.01)
    quantizer = vq(config)
    codebook = quantizer.get_parameter("codebook")
    codebook.data.copy_(torch.tensor(PUBLISHED["codes"], dtype=FLOAT64))
    z = torch.tensor(PUBLISHED["z"], dtype=FLOAT64).requires_grad_()
    out = quantizer(z)
    assert out.indices[0].flatten().tolist() == published["indices"]
    penalty = out.losses["sample_entropy"] + out.losses["diversity"]
    for name, found in zip(
        ("value", "to_z", "to_codes"),
        (penalty, *torch.autograd.grad(penalty, [z, codebook])),
        strict=True,
    ):
        expected = torch.tensor(published["penalty"][name], dtype=FLOAT64)
        assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_without_a_temperature_nothing_is_dumped_or_named():
    for config in (VQConfig(), VQEMAConfig()):
        assert "entropy_temperature" not in config.model_dump()
        assert "diversity" not in config.losses
        assert "diversity" in config.model_copy(update={"entropy_temperature": 1.0}).losses
