"""The quantizers of vector-quantize-pytorch keep our contract, whatever the library does inside."""

import copy
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import Section, validate
from imagetok.errors import ConfigError, ResourceError
from imagetok.quantizers import (
    FSQConfig,
    LFQConfig,
    Quantizer,
    QuantizerConfig,
    ResidualVQConfig,
    RotationVQConfig,
    SimVQConfig,
    build_quantizer,
)
from imagetok.quantizers.functional import as_vectors, nearest_map

FSQ = FSQConfig(levels=(8, 5, 3))
LFQ = LFQConfig(code_dim=5)
RESIDUAL = ResidualVQConfig(num_codes=12, code_dim=5, num_levels=3)
SIMVQ = SimVQConfig(num_codes=12, code_dim=5)
ROTATION = RotationVQConfig(num_codes=12, code_dim=5)
NEAREST: list[QuantizerConfig] = [RESIDUAL, SIMVQ, ROTATION]
EVERY: list[QuantizerConfig] = [FSQ, LFQ, *NEAREST]
SEEDS = st.integers(0, 2**32 - 1)


def name(config: QuantizerConfig) -> str:
    return config.kind


every_kind = pytest.mark.parametrize("config", EVERY, ids=name)
every_nearest = pytest.mark.parametrize("config", NEAREST, ids=name)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: QuantizerConfig, seed: int = 0) -> Quantizer:
    seeding.reseed_global(seed)
    return build_quantizer(config)


def features(quantizer: Quantizer, seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(batch, quantizer.in_channels, 3, 4, generator=gen(seed))


def state(quantizer: Quantizer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in quantizer.state_dict().items()}


def jacobian(quantizer: Quantizer, z: Tensor) -> Tensor:
    """(D, D) of z_q at one vector (D,)."""
    found = torch.autograd.functional.jacobian(
        lambda x: quantizer(x).z_q.flatten(), z.view(1, -1, 1, 1)
    )
    assert isinstance(found, Tensor)
    return found.view(len(z), len(z))


@every_kind
@settings(max_examples=10)
@given(seed=SEEDS)
def test_forward_gives_every_field_in_its_shape(config: QuantizerConfig, seed: int) -> None:
    quantizer = build(config, seed)
    h = features(quantizer, seed)
    out = quantizer(h, temperature=0.7, generator=gen(seed))
    levels = 3 if config is RESIDUAL else 1
    assert quantizer.num_codes == (config.num_codes,) * levels
    assert out.z_q.shape == h.shape and torch.isfinite(out.z_q).all() and out.stats == {}
    assert [level.shape for level in out.indices] == [(2, 3, 4)] * levels
    for level in out.indices:
        assert level.dtype == torch.int64 and level.min() >= 0 and level.max() < config.num_codes
    assert tuple(out.losses) == config.losses
    assert all(loss.shape == () and torch.isfinite(loss) for loss in out.losses.values())
    assert_close(quantizer.decode(out.indices), out.z_q)
    for found, expected in zip(quantizer.encode(h), out.indices, strict=True):
        assert torch.equal(found, expected)


@every_kind
def test_nothing_changes_but_by_gradient(config: QuantizerConfig) -> None:
    quantizer = build(config)
    before = state(quantizer)
    h = features(quantizer).requires_grad_()
    for step in range(3):
        out = quantizer(h, generator=gen(step))
        (out.z_q.sum() + sum(out.losses.values())).backward()
        quantizer.encode(h)
        assert quantizer.update(out.stats, gen(step)) == {}
    after = quantizer.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


@every_kind
def test_nothing_is_drawn_and_the_mode_changes_nothing(config: QuantizerConfig) -> None:
    quantizer = build(config).train()
    h = features(quantizer)
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    first = quantizer(h)
    assert torch.equal(torch.get_rng_state(), drawn)
    z = h[0, :, 0, 0]
    trained = jacobian(quantizer, z)
    again = quantizer.eval()(h.to(memory_format=torch.channels_last))
    assert torch.equal(first.z_q, again.z_q) and torch.equal(jacobian(quantizer, z), trained)
    assert all(torch.equal(first.losses[k], again.losses[k]) for k in config.losses)


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_indices_are_exact_under_autocast(config: QuantizerConfig, dtype: torch.dtype) -> None:
    quantizer = build(config)
    h = (2 * features(quantizer, batch=8)).to(dtype)
    plain = quantizer(h.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(h)
        codes = quantizer.encode(h)
        z_q = quantizer.decode(codes)
    for level, one in enumerate(codes):
        assert torch.equal(one, plain.indices[level])
        assert torch.equal(found.indices[level], plain.indices[level])
    assert found.z_q.dtype == z_q.dtype == torch.float32 and torch.equal(found.z_q, plain.z_q)
    assert torch.equal(z_q, quantizer.decode(plain.indices))
    assert all(torch.equal(found.losses[k], plain.losses[k]) for k in config.losses)


@pytest.mark.parametrize("config", [LFQ, RESIDUAL, SIMVQ], ids=name)
def test_the_straight_through_jacobian_is_the_identity(config: QuantizerConfig) -> None:
    quantizer = build(config)
    z = features(quantizer)[0, :, 0, 0]
    assert_close(jacobian(quantizer, z), torch.eye(len(z)))


def test_the_rotation_trick_turns_and_scales() -> None:
    # Fifty et al. 2024, 4.2: z_q = s R z with R a rotation and s = |e| / |z|, both held constant.
    quantizer = build(ROTATION)
    for seed in range(5):
        z = features(quantizer, seed)[0, :, 0, 0]
        matrix = jacobian(quantizer, z)
        e = quantizer(z.view(1, -1, 1, 1)).z_q.flatten()
        assert_close(matrix @ z, e, rtol=1e-4, atol=1e-5)
        scale = e.norm() / z.norm()
        assert_close(matrix @ matrix.T / scale**2, torch.eye(len(z)), rtol=1e-3, atol=1e-4)


def test_fsq_passes_the_gradient_of_its_bound() -> None:
    # Mentzer et al. 2023, 3.1: round(tanh(z + shift) h - offset) / w, and round has gradient 1.
    quantizer = build(FSQ)
    z = features(quantizer)[0, :, 0, 0].double()
    levels = torch.tensor(FSQ.levels, dtype=torch.float64)
    half = (levels - 1) * 1.001 / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0).double()
    shift = (offset / half).atanh()
    expected = (1 - (z + shift).tanh() ** 2) * half / (levels // 2)
    assert_close(jacobian(quantizer, z.float()), expected.diag().float(), rtol=1e-4, atol=1e-5)
    rounded = ((z + shift).tanh() * half - offset).round() / (levels // 2)
    assert_close(quantizer(z.float().view(1, 3, 1, 1)).z_q.flatten(), rounded.float())


@pytest.mark.parametrize("config", [LFQ, SIMVQ, ROTATION], ids=name)
@settings(max_examples=20)
@given(seed=SEEDS)
def test_what_was_decoded_is_encoded_again(config: QuantizerConfig, seed: int) -> None:
    quantizer = build(config, seed)
    indices = torch.randint(quantizer.num_codes[0], (2, 3, 4), generator=gen(seed))
    z_q = quantizer.decode((indices,)).detach()
    assert torch.equal(quantizer.encode(z_q)[0], indices)


def test_every_code_of_fsq_is_a_point_of_the_grid_and_found_again() -> None:
    quantizer = build(FSQ)
    indices = torch.arange(FSQ.num_codes).view(1, 1, -1)
    z_q = quantizer.decode((indices,))
    assert len(z_q.flatten(2).mT[0].unique(dim=0)) == FSQ.num_codes and z_q.abs().max() <= 1
    levels = torch.tensor(FSQ.levels).view(1, 3, 1, 1)
    half, offset = (levels - 1) * 1.001 / 2, torch.where(levels % 2 == 0, 0.5, 0.0)
    h = ((z_q * (levels // 2) + offset) / half).atanh() - (offset / half).atanh()
    assert torch.equal(quantizer.encode(h)[0], indices)


@every_nearest
@settings(max_examples=20)
@given(seed=SEEDS)
def test_each_level_is_the_nearest_code_to_what_is_left(config: QuantizerConfig, seed: int) -> None:
    quantizer = build(config, seed)
    library = quantizer.get_submodule("library")
    left = h = features(quantizer, seed)
    codes = quantizer.encode(h)
    books = library.codebooks if config is RESIDUAL else library.codebook[None]
    for table, indices in zip(books.detach(), codes, strict=True):
        assert torch.equal(nearest_map(left, table), indices)
        left = left - table[indices].movedim(-1, 1)
    assert_close(h - left, quantizer.decode(codes).detach())


@every_kind
def test_the_map_of_the_commitment_has_the_loss_as_its_mean(config: QuantizerConfig) -> None:
    quantizer = build(config)
    h = features(quantizer)
    maps = quantizer.certainty(h)
    if "commitment" not in config.losses:
        assert maps == {}
        return
    assert all(values.shape == h[:, 0].shape for values in maps.values())
    assert_close(maps["commitment"].mean(), quantizer(h).losses["commitment"])
    if len(quantizer.num_codes) == 1:  # otherwise sums over levels
        squares = (h - quantizer.decode(quantizer.encode(h))).square()
        assert_close(maps["commitment_norm"], squares.norm(dim=1))


@every_nearest
def test_commitment_moves_the_encoder_and_the_codebook_loss_the_codes(
    config: QuantizerConfig,
) -> None:
    quantizer = build(config)
    h = features(quantizer).requires_grad_()
    losses = quantizer(h).losses
    losses["commitment"].backward(retain_graph=True)
    assert h.grad is not None and h.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in quantizer.parameters())
    h.grad = None
    losses["codebook"].backward(retain_graph=True)
    assert h.grad is None or not h.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in quantizer.parameters())
    quantizer.zero_grad()
    quantizer(h).z_q.square().sum().backward()  # the reconstruction moves the encoder alone
    assert h.grad is not None and h.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in quantizer.parameters())


@pytest.mark.parametrize("config", [SIMVQ, ROTATION], ids=name)
def test_the_losses_are_those_of_vq_vae(config: QuantizerConfig) -> None:
    quantizer = build(config)
    h = features(quantizer)
    out = quantizer(h)
    expected = (h - quantizer.decode(out.indices)).square().mean()
    assert_close(out.losses, {"codebook": expected, "commitment": expected})


def test_lfq_losses_are_those_of_the_library() -> None:
    quantizer = build(LFQ)
    h = features(quantizer)
    library: Any = copy.deepcopy(quantizer.get_submodule("library")).train()
    library.commitment_loss_weight = 1.0
    _, expected = library(as_vectors(h)[None], inv_temperature=100.0, return_loss_breakdown=True)
    found = quantizer(h).losses
    assert_close(found["sample_entropy"], expected.per_sample_entropy, rtol=1e-2, atol=1e-3)
    assert_close(-found["diversity"], expected.batch_entropy, rtol=1e-3, atol=1e-3)
    assert_close(found["commitment"], expected.commitment)


def test_lfq_entropies_fall_apart_into_bits() -> None:
    # Codes are all sign patterns, so p is a product of Bernoullis with logits 4 z / temperature.
    quantizer = build(LFQConfig(code_dim=5, temperature=2.0))
    h = features(quantizer)
    bits = torch.distributions.Bernoulli(logits=4 * as_vectors(h) / 2.0).entropy()
    assert_close(quantizer(h).losses["sample_entropy"], bits.sum(dim=1).mean())
    assert torch.equal(quantizer.encode(h.abs())[0], torch.full((2, 3, 4), 31))
    assert torch.equal(quantizer.encode(-h.abs())[0], torch.zeros(2, 3, 4, dtype=torch.int64))


def test_lfq_diversity_is_minus_the_entropy_of_the_mean_over_all_codes() -> None:
    # MAGVIT-v2 eq. 4, with the matrix of all vectors and codes
    quantizer = build(LFQConfig(code_dim=5, temperature=2.0)).double()
    h = features(quantizer).double().requires_grad_()
    every = quantizer.vectors()
    assert every is not None
    p = (-torch.cdist(as_vectors(h), every).square() / 2.0).softmax(dim=1).mean(dim=0)
    expected = (p * p.log()).sum()
    found = quantizer(h).losses["diversity"]
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(loss, h)[0] for loss in (found, expected)))


@settings(max_examples=10)
@given(seed=SEEDS, scale=st.sampled_from([0.0, 1.0, 1e3, 1e20]))
def test_lfq_gradients_are_finite_where_codes_have_probability_0(seed: int, scale: float) -> None:
    quantizer = build(LFQConfig())
    h = (features(quantizer, seed) * scale).requires_grad_()
    sum(quantizer(h).losses[k] for k in ("sample_entropy", "diversity")).backward()
    assert h.grad is not None and h.grad.isfinite().all()


@every_nearest
def test_ties_go_to_the_lowest_index(config: QuantizerConfig) -> None:
    quantizer = build(config)
    with torch.no_grad():
        for table in (*quantizer.parameters(), *quantizer.buffers()):
            if table.is_floating_point():
                table.fill_(0.5)
    assert all((level == 0).all() for level in quantizer.encode(features(quantizer)))


@every_nearest
@settings(max_examples=10)
@given(seed=SEEDS)
def test_permuting_the_codebook_permutes_the_indices_only(
    config: QuantizerConfig, seed: int
) -> None:
    quantizer = build(config, seed)
    permuted, order = copy.deepcopy(quantizer), torch.randperm(12, generator=gen(seed))
    with torch.no_grad():
        for tensor in (*permuted.parameters(), *permuted.buffers()):
            if tensor.shape[-2:] == (12, 5):
                tensor.copy_(tensor[..., order, :].clone())
    h = features(quantizer, seed)
    before, after = quantizer(h), permuted(h)
    for old, new in zip(before.indices, after.indices, strict=True):
        assert torch.equal(order[new], old)
    assert_close(after.z_q, before.z_q)
    assert_close(after.losses, before.losses)


@every_kind
def test_a_skeleton_takes_stored_tensors(config: QuantizerConfig) -> None:
    quantizer = build(config)
    with torch.device("meta"):
        skeleton = build_quantizer(config)
    skeleton.load_state_dict(copy.deepcopy(quantizer.state_dict()), strict=True, assign=True)
    h = features(quantizer)
    assert torch.equal(skeleton(h).z_q, quantizer(h).z_q)


@every_kind
def test_without_the_library_it_says_what_to_install(
    config: QuantizerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ResourceError, match=rf"'{config.kind}' needs .*imagetok\[zoo\]"):
        build_quantizer(config)


class Holder(Section):
    quantizer: QuantizerConfig


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "fsq", "levels": []}, "levels: expected one or more whose product"),
        ({"kind": "fsq", "levels": [2, 8]}, "levels.0: Input should be greater than or equal to 3"),
        (
            {"kind": "fsq", "levels": [300, 300]},
            r"at most 65536; found \[300, 300\], product 90000",
        ),
        ({"kind": "fsq", "num_codes": 64}, "num_codes: unknown key; known here: kind, levels"),
        ({"kind": "lfq", "code_dim": 17}, "code_dim: Input should be less than or equal to 16"),
        ({"kind": "lfq", "temperature": 0}, "temperature: Input should be greater than 0"),
        ({"kind": "residual-vq", "num_levels": 1}, "num_levels: Input should be greater"),
        ({"kind": "simvq", "num_codes": 2**20}, "num_codes: Input should be less"),
    ],
)
def test_sizes_that_cannot_work_are_refused(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate({"quantizer": section}, Holder, "here")


@every_kind
def test_no_images_have_no_codes_and_empty_maps(config):
    quantizer = build(config).eval()
    codes = quantizer.encode(torch.zeros(0, quantizer.in_channels, 2, 3))
    assert [level.shape for level in codes] == [(0, 2, 3)] * len(quantizer.num_codes)
    maps = quantizer.certainty(torch.zeros(0, quantizer.in_channels, 2, 3))
    assert {tuple(values.shape) for values in maps.values()} <= {(0, 2, 3)}
