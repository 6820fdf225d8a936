"""The contract of base.Quantizer, held by every kind, and what is particular to each."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Dirichlet, RelaxedOneHotCategorical
from torch.testing import assert_close

from imagetok import seeding
from imagetok.quantizers import (
    DVAEConfig,
    EdVAEConfig,
    GSVQConfig,
    Quantizer,
    QuantizerConfig,
    SQVAEConfig,
    VMFSQVAEConfig,
    VQConfig,
    VQEMAConfig,
    VQSTEConfig,
    build_quantizer,
)
from imagetok.quantizers.functional import dirichlet_kl_to_uniform, relaxed_codes
from imagetok.testing import check_quantizer

Config = QuantizerConfig
NEAREST = VQConfig | VQEMAConfig | VQSTEConfig

LOGIT_CONFIGS: list[Config] = [
    EdVAEConfig(),
    EdVAEConfig(probabilities="sample"),
    EdVAEConfig(evidence="softplus"),
    EdVAEConfig(kl="torch"),
    DVAEConfig(),
]
RELAXED_CONFIGS: list[Config] = [
    *LOGIT_CONFIGS,
    GSVQConfig(),
    SQVAEConfig(variance="fixed"),
    SQVAEConfig(variance="I"),
    SQVAEConfig(variance="II"),
    SQVAEConfig(variance="III"),
    SQVAEConfig(variance="IV"),
    VMFSQVAEConfig(),
]
NEAREST_CONFIGS: list[Config] = [
    VQConfig(),
    VQConfig(error="norm-of-squares"),
    VQEMAConfig(),
    *(VQEMAConfig(averages=averages) for averages in ("zeros", "debiased", "ones")),
    VQSTEConfig(),
]
CONFIGS: list[Config] = [*RELAXED_CONFIGS, *NEAREST_CONFIGS]
SAMPLING: list[Config] = [
    EdVAEConfig(test_rule="sample"),
    DVAEConfig(test_rule="sample"),
    GSVQConfig(test_rule="sample"),
    SQVAEConfig(test_rule="sample"),
    VMFSQVAEConfig(test_rule="sample"),
]
SEEDS = st.integers(0, 2**32 - 1)


def name(config: Config) -> str:
    return "-".join(str(v) for v in config.model_dump().values() if isinstance(v, str))


every_kind = pytest.mark.parametrize("config", CONFIGS, ids=name)
every_logit_kind = pytest.mark.parametrize("config", LOGIT_CONFIGS, ids=name)
every_relaxed_kind = pytest.mark.parametrize("config", RELAXED_CONFIGS, ids=name)
every_rule = pytest.mark.parametrize("config", [*CONFIGS, *SAMPLING], ids=name)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: Config, seed: int = 0, num_codes: int = 12, code_dim: int = 5) -> Quantizer:
    seeding.reseed_global(seed)
    return build_quantizer(config.model_copy(update={"num_codes": num_codes, "code_dim": code_dim}))


def features(quantizer: Quantizer, seed: int = 0, batch: int = 2) -> Tensor:
    scale = 1.0 if quantizer.in_channels == quantizer.num_codes[0] else 0.1
    return scale * torch.randn(batch, quantizer.in_channels, 3, 4, generator=gen(seed))


def state(quantizer: Quantizer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in quantizer.state_dict().items()}


def same_state(quantizer: Quantizer, before: dict[str, Tensor]) -> bool:
    after = quantizer.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


@every_kind
@given(seed=SEEDS, num_codes=st.integers(2, 40), code_dim=st.integers(1, 9))
def test_forward_gives_every_field_in_its_shape(
    config: Config, seed: int, num_codes: int, code_dim: int
) -> None:
    quantizer = build(config, seed, num_codes, code_dim)
    out = quantizer(features(quantizer, seed), temperature=0.7, generator=gen(seed))
    assert quantizer.num_codes == (num_codes,) and quantizer.code_dim == code_dim
    assert out.z_q.shape == (2, code_dim, 3, 4) and torch.isfinite(out.z_q).all()
    assert [level.shape for level in out.indices] == [(2, 3, 4)]
    for indices in (*out.indices, *quantizer.encode(features(quantizer, seed))):
        assert indices.dtype == torch.int64 and indices.min() >= 0 and indices.max() < num_codes
    assert tuple(out.losses) == config.losses
    for kind, loss in out.losses.items():  # `discrete` is minus an entropy
        assert loss.shape == () and (loss >= -1e-4 or kind == "discrete")


@every_kind
@given(seed=SEEDS, num_codes=st.integers(2, 64), code_dim=st.integers(4, 16))
def test_what_was_decoded_is_encoded_again(
    config: Config, seed: int, num_codes: int, code_dim: int
) -> None:
    quantizer = build(config, seed, num_codes, code_dim)
    indices = torch.randint(num_codes, (2, 3, 4), generator=gen(seed))
    z_q = quantizer.decode((indices,)).detach()
    assert z_q.shape == (2, code_dim, 3, 4)
    one_hot = torch.nn.functional.one_hot(indices, num_codes).movedim(-1, 1).float()
    h = one_hot
    if config not in LOGIT_CONFIGS:  # the mean, and a log-variance where one is read
        h = torch.cat([z_q, torch.zeros_like(z_q)], dim=1)[:, : quantizer.in_channels]
    assert torch.equal(quantizer.encode(h)[0], indices)


@every_kind
@given(seed=SEEDS)
def test_permuting_the_codebook_permutes_the_indices(config: Config, seed: int) -> None:
    quantizer = build(config, seed)
    permuted = copy.deepcopy(quantizer)
    order = torch.randperm(12, generator=gen(seed))
    permuted.load_state_dict({**state(quantizer), "codebook": quantizer.codebook[order]})
    h = features(quantizer, seed)
    moved = h[:, order] if config in LOGIT_CONFIGS else h
    (indices,), (found,) = quantizer.encode(h), permuted.encode(moved)
    assert torch.equal(order[found], indices)
    assert torch.equal(permuted.decode((found,)), quantizer.decode((indices,)))
    # Nothing else changes: neither do the losses that no noise enters.
    before, after = quantizer(h, generator=gen(0)).losses, permuted(moved, generator=gen(0)).losses
    for term in before.keys() - {"continuous"}:
        assert_close(after[term], before[term], rtol=1e-4, atol=1e-5)


@every_rule
def test_it_keeps_the_contract_that_holds_for_everybody(config: Config) -> None:
    check_quantizer(config.model_copy(update={"num_codes": 12, "code_dim": 5}))


@every_kind
def test_update_moves_only_what_is_not_trained(config: Config) -> None:
    quantizer = build(config)
    before = state(quantizer)
    out = quantizer(features(quantizer), generator=gen(0))
    quantizer.update(out.stats, gen(0))
    if isinstance(config, VQEMAConfig):
        assert not torch.equal(quantizer.get_buffer("codebook"), before["codebook"])
        assert not torch.equal(quantizer.get_buffer("cluster_size"), before["cluster_size"])
    elif isinstance(config, VQSTEConfig):  # its codes start
        changed = {k for k, v in quantizer.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {"codebook", "renewal.started"}
    else:
        assert out.stats == {} and same_state(quantizer, before)


@every_rule
def test_equal_generators_give_equal_results(config: Config) -> None:
    quantizer = build(config)
    h = features(quantizer)
    first, again = (quantizer(h, generator=gen(5)) for _ in range(2))
    assert torch.equal(first.z_q, again.z_q) and torch.equal(first.indices[0], again.indices[0])
    torch.manual_seed(5)
    assert torch.equal(quantizer(h).z_q, first.z_q)  # without one: torch's global generator
    encoded = [quantizer.encode(h, generator=gen(seed))[0] for seed in (5, 5, 6)]
    assert torch.equal(encoded[0], encoded[1])
    assert torch.equal(encoded[0], encoded[2]) == (config not in SAMPLING)
    other = quantizer(h, generator=gen(6)).z_q
    assert torch.equal(first.z_q, other) == isinstance(config, NEAREST)


def test_a_nearest_code_tells_its_margin() -> None:
    quantizer = build(VQEMAConfig())
    found = quantizer.certainty(h := features(quantizer))
    assert found.keys() == {"margin", "encoder_norm", "commitment", "commitment_norm"}
    assert all(values.shape == h[:, 0].shape and (values >= 0).all() for values in found.values())


@every_kind
def test_only_the_distance_to_the_nearest_code_is_a_commitment(config: Config) -> None:
    quantizer = build(config)
    h = features(quantizer)
    maps = quantizer.certainty(h)
    assert ("commitment" in maps) == ("commitment_norm" in maps) == isinstance(config, NEAREST)
    if isinstance(config, NEAREST):
        squares = (h - quantizer.decode(quantizer.encode(h))).square()
        assert_close(maps["commitment"], squares.mean(dim=1))
        assert_close(maps["commitment_norm"], squares.norm(dim=1))
        if "commitment" in config.losses:
            is_norm = getattr(config, "error", "") == "norm-of-squares"
            loss = maps["commitment_norm" if is_norm else "commitment"].mean()
            assert_close(loss, quantizer(h).losses["commitment"])


@every_logit_kind
def test_certainty_is_that_of_the_probabilities(config: Config) -> None:
    quantizer = build(config)
    h = 3 * features(quantizer)
    maps = quantizer.certainty(h)
    weights = h.exp()
    if isinstance(config, EdVAEConfig):
        weights = (h.exp() if config.evidence == "exp" else torch.nn.functional.softplus(h)) + 1
        assert_close(maps.pop("uncertainty"), 12 / weights.sum(dim=1))
    entropy = torch.distributions.Categorical(probs=weights.movedim(1, -1)).entropy()
    assert_close(maps.pop("entropy"), entropy, rtol=1e-4, atol=1e-5)
    assert torch.equal(maps.pop("top_logit"), h.max(dim=1).values)
    assert maps == {}


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_forward_is_float32_under_autocast(config: Config, dtype: torch.dtype) -> None:
    quantizer = build(config)
    h = (5 * features(quantizer)).to(dtype)
    plain = quantizer(h.float(), generator=gen(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(h, generator=gen(0))
        codes = quantizer.encode(h)
    assert found.z_q.dtype == torch.float32 and torch.equal(found.z_q, plain.z_q)
    expected = plain.losses | plain.stats
    for key, value in (found.losses | found.stats).items():
        assert value.dtype == torch.float32 and torch.equal(value, expected[key])
    assert torch.equal(codes[0], quantizer.encode(h.float())[0])


@every_logit_kind
def test_gradients_reach_logits_and_codebook(config: Config) -> None:
    quantizer = build(config)
    h = features(quantizer).requires_grad_()
    out = quantizer(h, temperature=0.8, generator=gen(0))
    out.z_q.square().sum().backward(retain_graph=True)
    codebook = quantizer.get_parameter("codebook")
    for tensor in (h, codebook):
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad.any()
    codebook.grad = h.grad = None
    out.losses["kl"].backward()
    assert h.grad is not None and h.grad.any() and codebook.grad is None


@every_relaxed_kind
def test_a_low_temperature_sends_hard_codes(config: Config) -> None:
    quantizer = build(config)
    out = quantizer(features(quantizer), temperature=1e-6, generator=gen(0))
    assert_close(out.z_q, quantizer.decode(out.indices), rtol=1e-3, atol=1e-3)


def test_dvae_draws_are_those_of_torch_distributions() -> None:
    quantizer = build(DVAEConfig())
    logits = torch.randn(6, 12, 1, 1, generator=gen(0))  # codes last but for axes of size 1
    torch.manual_seed(3)
    y = RelaxedOneHotCategorical(0.6, logits=logits[:, :, 0, 0]).rsample()
    out = quantizer(logits, temperature=0.6, generator=gen(3))
    assert_close(out.z_q[:, :, 0, 0], y @ quantizer.get_parameter("codebook"))
    assert torch.equal(out.indices[0][:, 0, 0], y.argmax(dim=1))


def test_edvae_mean_probabilities_are_alpha_over_s() -> None:
    quantizer = build(EdVAEConfig())
    logits = 3 * torch.randn(6, 12, 1, 1, generator=gen(0))
    alpha = logits[:, :, 0, 0].exp() + 1
    probabilities = alpha / alpha.sum(dim=1, keepdim=True)
    torch.manual_seed(3)
    y = RelaxedOneHotCategorical(0.6, probs=probabilities).rsample()
    out = quantizer(logits, temperature=0.6, generator=gen(3))
    assert_close(out.z_q[:, :, 0, 0], y @ quantizer.get_parameter("codebook"))
    assert_close(out.losses["kl"], dirichlet_kl_to_uniform(logits.exp() + 1).mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_edvae_of_evidence_without_the_one_is_the_gumbel_softmax_of_the_logits(
    temperature: float,
) -> None:
    z = 3 * torch.randn(6, 12, 1, 1, dtype=torch.float64, generator=gen(0))
    codes = torch.randn(12, 5, dtype=torch.float64, generator=gen(1))
    evidence = z.exp()[:, :, 0, 0]
    torch.manual_seed(3)
    probabilities = evidence / evidence.sum(dim=1, keepdim=True)
    y = RelaxedOneHotCategorical(temperature, probs=probabilities).rsample()
    uniforms = torch.rand(6, 12, dtype=torch.float64, generator=gen(3))
    z_q, indices = relaxed_codes(z, uniforms, codes, torch.tensor(temperature, dtype=torch.float64))
    assert_close(z_q[:, :, 0, 0], y @ codes)
    assert torch.equal(indices[:, 0, 0], y.argmax(dim=1))
    # At evidence of e^40, which has no room for the one, EdVAE is the dVAE.
    edvae, dvae = build(EdVAEConfig(max_logit=60.0)), build(DVAEConfig())
    dvae.load_state_dict(edvae.state_dict())
    large = z.float() + 40
    found, expected = (q(large, temperature=temperature, generator=gen(4)) for q in (edvae, dvae))
    assert_close(found.z_q, expected.z_q, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.indices[0], expected.indices[0])


def test_edvae_sampled_probabilities_are_dirichlet_draws() -> None:
    quantizer = build(EdVAEConfig(probabilities="sample"))
    logits = torch.randn(50, 12, 1, 1, generator=gen(0)) + 1
    torch.manual_seed(3)
    probabilities = Dirichlet(logits[:, :, 0, 0].exp() + 1).rsample()
    y = RelaxedOneHotCategorical(0.6, probs=probabilities).rsample()
    out = quantizer(logits, temperature=0.6, generator=gen(3))
    assert_close(out.z_q[:, :, 0, 0], y @ quantizer.get_parameter("codebook"), rtol=1e-4, atol=1e-5)


def test_edvae_sampled_probabilities_have_the_gradient_of_the_mean() -> None:
    # E[pi] = alpha / S, so the mean implicit gradient of draws is the gradient of alpha / S.
    from imagetok.quantizers.edvae import _gamma_draw, _LogOfGamma

    logits = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    alpha = logits.exp() + 1
    (exact,) = torch.autograd.grad((alpha / alpha.sum())[0], logits)
    alpha = (logits.exp() + 1).view(1, 4, 1, 1).expand(20_000, -1, -1, -1)
    draws = _LogOfGamma.apply(alpha, _gamma_draw(alpha, gen(0))).softmax(dim=1)
    (found,) = torch.autograd.grad(draws[:, 0].mean(), logits)
    assert_close(found, exact, rtol=0, atol=0.01)  # 5 standard errors of 20,000 draws


def test_edvae_softplus_evidence_is_not_clamped() -> None:
    quantizer = build(EdVAEConfig(evidence="softplus", max_logit=1.0))
    logits = 3 * torch.randn(6, 12, 1, 1, generator=gen(0))
    alpha = torch.nn.functional.softplus(logits[:, :, 0, 0]) + 1
    torch.manual_seed(3)
    y = RelaxedOneHotCategorical(0.6, probs=alpha / alpha.sum(dim=1, keepdim=True)).rsample()
    out = quantizer(logits, temperature=0.6, generator=gen(3))
    assert_close(out.z_q[:, :, 0, 0], y @ quantizer.get_parameter("codebook"))
    assert_close(out.losses["kl"], dirichlet_kl_to_uniform(alpha[:, :, None, None]).mean())


def test_the_released_kl_agrees_for_small_logits_and_loses_its_gradient_for_large_ones() -> None:
    exact, released = build(EdVAEConfig()), build(EdVAEConfig(kl="torch"))
    for largest, agrees in ((3.0, True), (19.5, False)):
        h = torch.randn(2, 12, 3, 4, generator=gen(0)) - 4
        h[:, :4] = largest
        kls, gradients = [], []
        for quantizer in (exact, released):
            leaf = h.clone().requires_grad_()
            kl = quantizer(leaf, generator=gen(0)).losses["kl"]
            kls.append(kl.detach())
            gradients.append(torch.autograd.grad(kl, leaf)[0].flatten())
        cosine = torch.cosine_similarity(gradients[0], gradients[1], dim=0)
        assert (abs(kls[1] / kls[0] - 1) < 1e-4) == agrees
        assert (cosine > 0.999) == agrees


@pytest.mark.parametrize("max_logit", [10.0, 20.0])
def test_edvae_clamps_evidence_but_not_the_codes(max_logit: float) -> None:
    quantizer = build(EdVAEConfig(max_logit=max_logit))
    logits = features(quantizer)
    logits[:, 3], logits[:, 7] = max_logit + 5, max_logit + 9
    h = logits.requires_grad_()
    kl = quantizer(h, generator=gen(0)).losses["kl"]
    clamped = quantizer(h.detach().clamp(max=max_logit), generator=gen(0)).losses["kl"]
    assert torch.equal(kl, clamped)
    kl.backward()
    assert h.grad is not None and not h.grad[:, [3, 7]].any() and h.grad[:, 0].any()
    assert (quantizer.encode(h)[0] == 7).all()


@pytest.mark.parametrize("config", SAMPLING[:2], ids=name)
def test_sampled_codes_follow_their_probabilities(config: Config) -> None:
    quantizer = build(config, num_codes=4)
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    (codes,) = quantizer.encode(
        logits.view(1, 4, 1, 1).expand(1, -1, 100, 200).contiguous(), generator=gen(0)
    )
    weights = logits.exp() + 1 if isinstance(config, EdVAEConfig) else logits.exp()
    found = torch.bincount(codes.flatten(), minlength=4) / codes.numel()
    # E[pi] = alpha / S; 20,000 draws have a standard error below 0.0036.
    assert_close(found, weights / weights.sum(), rtol=0, atol=0.015)


def test_vq_passes_the_gradient_straight_through() -> None:
    quantizer = build(VQEMAConfig())
    h = features(quantizer, batch=1)[:, :, :2, :2].clone()
    jacobian = torch.autograd.functional.jacobian(lambda x: quantizer(x).z_q, h)
    assert isinstance(jacobian, Tensor)
    assert torch.equal(jacobian.view(h.numel(), h.numel()), torch.eye(h.numel()))
    out = quantizer(h)
    assert_close(out.z_q, quantizer.decode(out.indices))
    assert torch.equal(out.indices[0], quantizer.encode(h)[0])


def test_vq_commitment_moves_the_encoder_and_not_the_codebook() -> None:
    quantizer = build(VQEMAConfig())
    assert list(quantizer.parameters()) == []
    h = features(quantizer).requires_grad_()
    out = quantizer(h)
    out.losses["commitment"].backward()
    z_q = quantizer.decode(out.indices)
    assert h.grad is not None
    assert_close(h.grad, 2 * (h.detach() - z_q) / h.numel())
    assert not quantizer.get_buffer("codebook").requires_grad


@given(seed=SEEDS)
def test_vq_stats_add_up_over_micro_batches(seed: int) -> None:
    quantizer = build(VQEMAConfig(), seed)
    h = features(quantizer, seed, batch=4)
    whole, *parts = (quantizer(x).stats for x in (h, h[:1], h[1:]))
    for key, value in whole.items():
        assert not value.requires_grad
        assert_close(sum(part[key] for part in parts), value)


def test_vq_update_repeated_on_one_batch_finds_its_means() -> None:
    quantizer = build(VQEMAConfig(decay=0.5))
    h = features(quantizer)
    for _ in range(80):
        quantizer.update(quantizer(h).stats, gen(0))
    out = quantizer(h)
    counts, sums = out.stats["counts"], out.stats["sums"]
    used = counts > 0
    assert_close(
        quantizer.get_buffer("codebook")[used],
        sums[used] / counts[used, None],
        rtol=1e-4,
        atol=1e-5,
    )
    assert_close(quantizer.get_buffer("cluster_size"), counts, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_codes", [16, 512])
def test_vq_starts_uniform_with_cluster_size_1(num_codes: int) -> None:
    quantizer = build(VQEMAConfig(), num_codes=num_codes, code_dim=64)
    codebook = quantizer.get_buffer("codebook") * num_codes
    assert codebook.abs().max() <= 1 and codebook.abs().max() > 0.98
    assert codebook.square().mean() == pytest.approx(1 / 3, rel=0.05)
    assert torch.equal(quantizer.get_buffer("cluster_size"), torch.ones(num_codes))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_no_images_have_no_codes_and_empty_maps(config):
    quantizer = build_quantizer(config).eval()
    codes = quantizer.encode(torch.zeros(0, quantizer.in_channels, 2, 3))
    assert [level.shape for level in codes] == [(0, 2, 3)] * len(quantizer.num_codes)
    assert quantizer.decode(codes).shape == (0, quantizer.code_dim, 2, 3)
    maps = quantizer.certainty(torch.zeros(0, quantizer.in_channels, 2, 3))
    assert maps and {tuple(values.shape) for values in maps.values()} == {(0, 2, 3)}
