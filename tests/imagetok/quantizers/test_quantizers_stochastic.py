"""GS-VQ-VAE, Gaussian and vMF SQ-VAE: what makes them what their papers say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.quantizers import (
    DVAEConfig,
    GSVQConfig,
    Quantized,
    Quantizer,
    SQVAEConfig,
    VMFSQVAEConfig,
    build_quantizer,
)
from imagetok.quantizers.functional import gaussian_logits, gumbel_noise, nearest_codes
from imagetok.quantizers.sqvae import SQVAEQuantizer, Variance

SEEDS = st.integers(0, 2**32 - 1)
FLOAT64 = torch.float64
K, D = 12, 5
TYPES: list[Variance] = ["fixed", "I", "II", "III", "IV"]
every_type = pytest.mark.parametrize("variance", TYPES)


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=gen(seed))


def sqvae(variance: Variance = "I", s: float = 0.3, floor: bool = True) -> SQVAEQuantizer:
    seeding.reseed_global(0)
    config = SQVAEConfig(num_codes=K, code_dim=D, variance=variance, log_variance=s, floor=floor)
    quantizer = build_quantizer(config)
    assert isinstance(quantizer, SQVAEQuantizer)
    quantizer.double().log_variance.data.fill_(s)  # in full precision
    return quantizer


def encoder_output(quantizer: Quantizer, z: Tensor, v: Tensor) -> Tensor:
    return torch.cat([z, v], dim=1)[:, : quantizer.in_channels]


def direct_variance(variance: Variance, v: Tensor, s: float) -> Tensor:
    """sigma^2 at every latent, as methods state it."""
    means = {"II": v.mean((1, 2, 3), keepdim=True), "III": v.mean(1, keepdim=True), "IV": v}
    return (means.get(variance, torch.zeros_like(v)).exp() + math.exp(s)).expand_as(v)


def log_densities(z: Tensor, codebook: Tensor, variance: Tensor) -> Tensor:
    """ln N(z; e_k, variance) as (B, H, W, K) by torch.distributions."""
    scale = variance.movedim(1, -1).sqrt()[..., None, :]
    return Independent(Normal(codebook, scale), 1).log_prob(z.movedim(1, -1)[..., None, :])


@given(seed=SEEDS, shared=st.sampled_from([(0, 1, 2, 3), (1, 2, 3), (1,), ()]))
def test_gaussian_logits_are_log_densities_up_to_a_constant(
    seed: int, shared: tuple[int, ...]
) -> None:
    z, codebook = normal(2, D, 3, 4, seed=seed), normal(K, D, seed=seed + 1)
    shape = [1 if axis in shared else size for axis, size in enumerate((2, D, 3, 4))]
    variance = normal(*shape, seed=seed + 2).exp()
    logits = gaussian_logits(z, codebook, variance).movedim(1, -1)
    expected = log_densities(z, codebook, variance.expand_as(z))
    assert_close(logits.log_softmax(-1), expected.log_softmax(-1), rtol=1e-10, atol=1e-10)


@every_type
def test_sqvae_losses_equal_a_direct_computation(variance: Variance) -> None:
    quantizer = sqvae(variance)
    z, v = normal(3, D, 2, 4), normal(3, D, 2, 4, seed=1)
    out: Quantized = quantizer(encoder_output(quantizer, z, v), generator=gen(0))
    sigma2 = direct_variance(variance, v, 0.3)
    posterior = Categorical(logits=log_densities(z, quantizer.codebook, sigma2))
    entropies = posterior.entropy().sum(dim=(1, 2))
    assert_close(out.losses["discrete"], -entropies.mean())
    distances = ((z - out.z_q).square() / (2 * sigma2)).sum(dim=(1, 2, 3))
    assert_close(out.losses["continuous"], distances.mean())


@every_type
def test_sqvae_certainty_tells_entropy_logit_and_variance(variance: Variance) -> None:
    quantizer = sqvae(variance)
    z, v = normal(3, D, 2, 4), normal(3, D, 2, 4, seed=1)
    maps = quantizer.certainty(encoder_output(quantizer, z, v))
    sigma2 = direct_variance(variance, v, 0.3)
    squares = (z.movedim(1, -1)[..., None, :] - quantizer.codebook).square()
    logits = -(squares / (2 * sigma2.movedim(1, -1)[..., None, :])).sum(dim=-1)
    assert_close(maps["entropy"], Categorical(logits=logits).entropy())
    assert_close(maps["top_logit"], logits.amax(dim=-1))
    assert_close(maps["variance"], sigma2.mean(dim=1))
    assert set(maps) == {"entropy", "top_logit", "variance"}


def test_sqvae_types_agree_when_their_variances_are_equal() -> None:
    z = normal(3, D, 2, 4)
    found = []
    for variance in TYPES:
        quantizer = sqvae(variance)
        # v = 0 in types II to IV is the floor of the others.
        h = encoder_output(quantizer, z, torch.zeros_like(z))
        found.append((quantizer(h, temperature=0.7, generator=gen(0)), quantizer.encode(h)))
    (first, codes), *others = found
    for out, other_codes in others:
        assert_close(out.z_q, first.z_q, rtol=1e-10, atol=1e-12)
        assert_close(out.losses, first.losses, rtol=1e-10, atol=1e-12)
        assert torch.equal(out.indices[0], first.indices[0])
        assert torch.equal(other_codes[0], codes[0])


def test_a_shared_log_variance_makes_types_ii_to_iv_agree() -> None:
    z = normal(3, D, 2, 4)
    outs = []
    for variance in TYPES[2:]:
        quantizer = sqvae(variance)
        h = encoder_output(quantizer, z, torch.full_like(z, -1.3))
        outs.append(quantizer(h, generator=gen(0)))
    without_floor = sqvae("I", s=math.log(math.exp(-1.3) + math.exp(0.3)), floor=False)
    outs.append(without_floor(z, generator=gen(0)))
    for out in outs[1:]:
        assert_close(out.z_q, outs[0].z_q, rtol=1e-10, atol=1e-12)
        assert_close(out.losses, outs[0].losses, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variance", ["fixed", "I", "II", "III", "IV"])
def test_sqvae_tends_to_the_nearest_code_as_the_variance_goes_to_0(variance: Variance) -> None:
    quantizer = sqvae(variance, s=-18.0, floor=variance not in ("fixed", "I"))
    z = normal(3, D, 2, 4)
    h = encoder_output(quantizer, z, torch.full_like(z, -18.0))
    nearest = nearest_codes(z.movedim(1, -1).flatten(0, 2), quantizer.codebook.detach())
    out = quantizer(h, generator=gen(0))
    assert torch.equal(out.indices[0].flatten(), nearest)
    assert_close(out.z_q, quantizer.decode(out.indices), rtol=1e-9, atol=1e-9)
    assert abs(out.losses["discrete"]) < 1e-9


def test_type_iv_weighs_dimensions_by_their_precision() -> None:
    quantizer = sqvae("IV", s=-30.0)
    with torch.no_grad():
        quantizer.codebook.zero_()
        quantizer.codebook[0, 0] = quantizer.codebook[1, 1] = 1.0
        quantizer.codebook[2:] = 100.0
    z = torch.full((1, D, 1, 1), 0.0, dtype=FLOAT64)
    z[0, :2] = 0.5  # as near to code 0 as to code 1
    v = torch.zeros_like(z)
    for wide, code in ((0, 1), (1, 0)):  # a miss costs least where the variance is wide
        v.zero_()[0, wide] = 1.0
        z[0, wide], z[0, 1 - wide] = 0.5, 0.6
        assert quantizer.encode(encoder_output(quantizer, z, v))[0].item() == code


@every_type
def test_sqvae_has_the_right_gradients(variance: Variance) -> None:
    quantizer = sqvae(variance)
    z, v = normal(1, D, 1, 2), normal(1, D, 1, 2, seed=1)
    h = encoder_output(quantizer, z, v).requires_grad_()
    parameters = dict(quantizer.named_parameters())
    learned = {"codebook"} if variance == "fixed" else {"codebook", "log_variance"}
    assert set(parameters) == learned

    def losses(h: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(parameters, values, strict=True))
        out = torch.func.functional_call(quantizer, named, (h,), {"generator": gen(0)})
        return out.z_q, *out.losses.values()

    assert torch.autograd.gradcheck(losses, (h, *parameters.values()))


def test_the_variance_starts_where_the_config_says() -> None:
    h = normal(2, 2 * D, 3, 4)
    for floor, expected in ((True, 21.0), (False, 20.0)):
        for variance in TYPES[:2]:
            quantizer = sqvae(variance, math.log(20), floor)
            maps = quantizer.certainty(h[:, :D])
            assert_close(
                maps["variance"], torch.full((2, 3, 4), expected, dtype=FLOAT64), rtol=1e-6, atol=0
            )


@pytest.mark.parametrize("variance", ["II", "III", "IV"])
def test_an_extreme_log_variance_overflows_nothing(variance: Variance) -> None:
    quantizer = sqvae(variance).float()
    for extreme in (-1e4, 60.0):
        h = torch.full((1, 2 * D, 2, 2), extreme).requires_grad_()
        out = quantizer(h, generator=gen(0))
        (out.z_q.sum() + sum(out.losses.values())).backward()
        assert h.grad is not None and torch.isfinite(h.grad).all()


@pytest.mark.parametrize("variance", ["II", "III", "IV"])
def test_a_floor_that_is_not_there_cannot_be_left_out(variance: Variance) -> None:
    with pytest.raises(
        ConfigError, match=f"needs variance fixed or I, found {variance}; set floor=true"
    ):
        validate({"variance": variance, "floor": False}, SQVAEConfig, "here")


def test_type_iv_makes_no_tensor_of_codes_by_dimensions() -> None:
    quantizer = SQVAEQuantizer(256, 64, "IV", 0.0, True, "argmax")
    h = torch.randn(2, 128, 8, 8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    with Watch():
        out = quantizer(h, generator=gen(0))
        (out.z_q.sum() + sum(out.losses.values())).backward()
    assert largest == 2 * 8 * 8 * 256  # positions x codes


@given(seed=SEEDS, temperature=st.floats(0.2, 2))
def test_gs_vq_is_the_dvae_of_minus_squared_distances(seed: int, temperature: float) -> None:
    seeding.reseed_global(seed)
    gs = build_quantizer(GSVQConfig(num_codes=K, code_dim=D))
    dvae = build_quantizer(DVAEConfig(num_codes=K, code_dim=D))
    codebook = torch.randn(K, D, generator=gen(seed))
    for quantizer in (gs, dvae):
        quantizer.load_state_dict({"codebook": codebook})
    z = torch.randn(2, D, 3, 4, generator=gen(seed + 1))
    squares = (z.movedim(1, -1)[..., None, :] - codebook).square().sum(-1)
    logits = (-squares).movedim(-1, 1)
    found = gs(z, temperature=temperature, generator=gen(5))
    expected = dvae(logits, temperature=temperature, generator=gen(5))
    assert_close(found.z_q, expected.z_q, rtol=1e-3, atol=1e-4)
    assert_close(found.losses["kl"], expected.losses["kl"], rtol=1e-4, atol=1e-5)
    assert torch.equal(gs.encode(z)[0], dvae.encode(logits)[0])
    assert torch.equal(
        gs.encode(z)[0].flatten(), nearest_codes(z.movedim(1, -1).flatten(0, 2), codebook)
    )
    for key, value in gs.certainty(z).items():
        assert_close(value, dvae.certainty(logits)[key], rtol=1e-4, atol=1e-4)


def test_gs_vq_gradients_reach_encoder_and_codebook_from_every_term() -> None:
    quantizer = build_quantizer(GSVQConfig(num_codes=K, code_dim=D))
    codebook = quantizer.get_parameter("codebook")
    z = torch.randn(2, D, 3, 4, generator=gen(0)).requires_grad_()
    out = quantizer(z, generator=gen(0))
    for term in (out.z_q.square().sum(), out.losses["kl"]):
        codebook.grad = z.grad = None
        term.backward(retain_graph=True)
        for tensor in (z, codebook):
            assert tensor.grad is not None and tensor.grad.any()
            assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("kind", ["gs-vqvae", "sqvae"])
def test_sampled_codes_follow_their_probabilities(kind: str) -> None:
    seeding.reseed_global(0)
    config = GSVQConfig if kind == "gs-vqvae" else SQVAEConfig
    quantizer = build_quantizer(config(num_codes=4, code_dim=2, test_rule="sample"))
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.5], [1.0, 1.0]])
    quantizer.get_parameter("codebook").data.copy_(codebook)
    z = torch.tensor([0.3, 0.2]).view(1, 2, 1, 1).expand(1, -1, 100, 200).contiguous()
    (codes,) = quantizer.encode(z, generator=gen(0))
    variance = 0.5 if kind == "gs-vqvae" else 21.0
    logits = -(torch.tensor([0.3, 0.2]) - codebook).square().sum(1) / (2 * variance)
    found = torch.bincount(codes.flatten(), minlength=4) / codes.numel()
    assert_close(found, logits.softmax(0), rtol=0, atol=0.015)  # standard error below 0.0036


def test_the_noise_of_a_draw_is_that_of_the_generator() -> None:
    quantizer = sqvae("I")
    z = normal(2, D, 3, 4)
    logits = gaussian_logits(
        z, quantizer.codebook, torch.full((1, 1, 1, 1), 1 + math.exp(0.3)).double()
    )
    noise = gumbel_noise(logits, gen(3))
    assert torch.equal(quantizer(z, generator=gen(3)).indices[0], (logits + noise).argmax(dim=1))


def vmf(s: float = 0.7) -> Quantizer:
    seeding.reseed_global(0)
    config = VMFSQVAEConfig(num_codes=K, code_dim=D, log_concentration=s)
    quantizer = build_quantizer(config).double()
    quantizer.get_parameter("log_concentration").data.fill_(s)  # in full precision
    return quantizer


def test_vmf_losses_equal_a_direct_computation() -> None:
    quantizer, h = vmf(), normal(3, D, 2, 4)
    out = quantizer(h, generator=gen(0))
    codes = quantizer.get_parameter("codebook")
    codes = codes / codes.norm(dim=1, keepdim=True)
    z = h / h.norm(dim=1, keepdim=True)
    kappa = 1 + math.exp(0.7)
    logits = kappa * torch.einsum("bdhw,kd->bhwk", z, codes)
    entropies = Categorical(logits=logits).entropy()
    assert_close(out.losses["discrete"], -entropies.sum(dim=(1, 2)).mean())
    misses = kappa * (1 - (z * out.z_q).sum(dim=1))
    assert_close(out.losses["continuous"], misses.sum(dim=(1, 2)).mean())
    maps = quantizer.certainty(h)
    assert_close(maps["entropy"], entropies)
    assert_close(maps["top_logit"], logits.amax(dim=-1))
    assert_close(maps["variance"], torch.full((3, 2, 4), 1 / kappa, dtype=FLOAT64))


def test_vmf_is_the_gaussian_of_unit_vectors() -> None:
    quantizer, h = vmf(), normal(3, D, 2, 4)
    gaussian = sqvae("I", s=-math.log(1 + math.exp(0.7)), floor=False)
    normalize = torch.nn.functional.normalize
    gaussian.codebook.data = normalize(quantizer.get_parameter("codebook").data, dim=1)
    found, expected = quantizer(h, generator=gen(0)), gaussian(normalize(h), generator=gen(0))
    assert_close(found.z_q, expected.z_q)
    assert_close(found.losses["discrete"], expected.losses["discrete"])
    assert torch.equal(quantizer.encode(h)[0], gaussian.encode(normalize(h))[0])


def test_vmf_knows_directions_only() -> None:
    quantizer, h = vmf(), normal(3, D, 2, 4)
    out, scaled = quantizer(h, generator=gen(0)), quantizer(7 * h, generator=gen(0))
    assert_close(scaled.z_q, out.z_q)
    assert_close(scaled.losses, out.losses)
    assert_close(quantizer.decode(out.indices).norm(dim=1), torch.ones(3, 2, 4, dtype=FLOAT64))


def test_vmf_has_the_right_gradients() -> None:
    quantizer = vmf()
    h = normal(1, D, 1, 2).requires_grad_()
    parameters = dict(quantizer.named_parameters())
    assert set(parameters) == {"codebook", "log_concentration"}

    def losses(h: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(parameters, values, strict=True))
        out = torch.func.functional_call(quantizer, named, (h,), {"generator": gen(0)})
        return out.z_q, *out.losses.values()

    assert torch.autograd.gradcheck(losses, (h, *parameters.values()))
