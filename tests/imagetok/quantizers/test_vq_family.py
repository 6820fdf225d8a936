"""VQ-VAE and VQ-STE++: what moves the codebook, what moves the encoder."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import validate
from imagetok.errors import ConfigError
from imagetok.quantizers import (
    Quantizer,
    VQConfig,
    VQEMAConfig,
    VQSTEConfig,
    build_quantizer,
)
from imagetok.quantizers.codebook_init_reset import NoReset
from imagetok.quantizers.functional import code_sums, codebook_gradient, nearest_codes
from imagetok.quantizers.vqste import AffineConfig, AlternationConfig

FLOAT64 = torch.float64
K, D = 12, 6
PLAIN = {"init": "normal", "reset": NoReset(), "num_codes": K, "code_dim": D}
BARE = {**PLAIN, "affine": None, "synchronisation": 0.0, "alternation": None}
CONFIGS = [
    VQConfig(**PLAIN),
    VQEMAConfig(**PLAIN),
    VQConfig(**PLAIN, distance="cosine"),
    VQEMAConfig(**PLAIN, distance="cosine", averages="zeros"),
    VQSTEConfig(**PLAIN),
    VQSTEConfig(**BARE),
    VQSTEConfig(**{**PLAIN, "affine": AffineConfig(groups=3), "alternation": AlternationConfig()}),
]
every_kind = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: VQConfig | VQEMAConfig | VQSTEConfig, seed: int = 0) -> Quantizer:
    """In float64, its affine parameters not 0."""
    seeding.reseed_global(seed)
    quantizer = build_quantizer(config).double()
    for name, parameter in quantizer.named_parameters():
        if name.startswith("affine"):
            parameter.data.uniform_(-0.02, 0.05)
    return quantizer


def features(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.randn(batch, D, 3, 4, dtype=FLOAT64, generator=gen(seed))


def gradients(value: Tensor, quantizer: Quantizer, *more: Tensor) -> dict[str, Tensor]:
    """Of every parameter and of `more`, zero where there is none."""
    names = [name for name, _ in quantizer.named_parameters()] + ["h"] * len(more)
    tensors = [*quantizer.parameters(), *more]
    found = torch.autograd.grad(value, tensors, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(tensor) if grad is None else grad
        for name, tensor, grad in zip(names, tensors, found, strict=True)
    }


@every_kind
def test_the_straight_through_jacobian_is_the_identity(config):
    quantizer = build(config)
    h = features(batch=1)[:, :, :2, :2].clone()
    jacobian = torch.autograd.functional.jacobian
    found = jacobian(lambda x: quantizer(x).z_q, h)
    if getattr(config, "distance", "euclidean") == "cosine":  # that of the unit vectors
        assert_close(found, jacobian(lambda x: torch.nn.functional.normalize(x, dim=1), h))
    else:
        assert torch.equal(found.view(h.numel(), -1), torch.eye(h.numel(), dtype=FLOAT64))
    out = quantizer(h)
    assert_close(out.z_q, quantizer.decode(out.indices))


@every_kind
def test_permuting_the_codebook_permutes_the_indices_only(config):
    quantizer, permuted = build(config), build(config)
    order = torch.randperm(K, generator=gen(1))
    if isinstance(config, VQSTEConfig) and config.affine and config.affine.groups > 1:
        size = K // config.affine.groups  # a code stays in its group
        order = torch.cat([torch.arange(i, i + size).flip(0) for i in range(0, K, size)])
    permuted.load_state_dict({**quantizer.state_dict(), "codebook": quantizer.codebook[order]})
    a, b = quantizer(features()), permuted(features())
    assert torch.equal(order[b.indices[0]], a.indices[0]) and torch.equal(a.z_q, b.z_q)
    assert all(torch.equal(a.losses[name], b.losses[name]) for name in a.losses)


def test_vqvae_losses_move_one_side_each():
    quantizer = build(VQConfig(**PLAIN))
    h = features().requires_grad_()
    out = quantizer(h)
    vectors = h.detach().movedim(1, -1).flatten(0, 2)
    indices = nearest_codes(vectors, quantizer.codebook)
    error = vectors - quantizer.codebook[indices]
    assert_close(out.losses["codebook"], error.square().mean())
    assert_close(out.losses["commitment"], error.square().mean())
    of_codebook = gradients(out.losses["codebook"], quantizer, h)
    counts, sums = code_sums(vectors, indices, K)
    assert_close(of_codebook["codebook"], codebook_gradient(quantizer.codebook, counts, sums))
    assert not of_codebook["h"].any() and not of_codebook["codebook"][counts == 0].any()
    of_commitment = gradients(out.losses["commitment"], quantizer, h)
    assert not of_commitment["codebook"].any()
    moved = of_commitment["h"].movedim(1, -1).flatten(0, 2)
    assert_close(moved, 2 * error / error.numel())
    of_output = gradients(out.z_q.square().sum(), quantizer, h)
    assert of_output["h"].any() and not of_output["codebook"].any()


def test_the_norm_of_squares_is_that_of_the_public_code():
    """nadavbh12/VQ-VAE: a norm over channels of squares, not of residuals, then a mean."""
    quantizer = build(VQConfig(**PLAIN, error="norm-of-squares"))
    h = features().requires_grad_()
    out = quantizer(h)
    z_q = quantizer.codebook[out.indices[0]].movedim(-1, 1)
    of_encoder = torch.norm((z_q.detach() - h) ** 2, 2, 1).mean()
    of_codes = torch.norm((z_q - h.detach()) ** 2, 2, 1).mean()
    for name, expected in (("commitment", of_encoder), ("codebook", of_codes)):
        assert_close(out.losses[name], expected)
        assert_close(gradients(out.losses[name], quantizer, h), gradients(expected, quantizer, h))


@given(seed=st.integers(0, 2**32 - 1), dim=st.integers(1, 200))
def test_the_norm_of_squares_is_the_mean_of_squares_times_a_factor(seed, dim):
    """From sqrt(D), where all channels are alike, to D, where only one differs."""
    residual = torch.randn(1, dim, 3, 3, dtype=FLOAT64, generator=gen(seed))
    losses = []
    for error in ("mean-square", "norm-of-squares"):
        config = VQConfig(num_codes=2, code_dim=dim, init="normal", error=error)
        quantizer = build(config)
        quantizer.codebook.data.copy_(torch.tensor([0.0, 1e6])[:, None].expand(2, dim))
        losses.append(quantizer(residual).losses["commitment"].item())
    assert dim**0.5 * (1 - 1e-9) <= losses[1] / losses[0] <= dim * (1 + 1e-9)


def test_the_error_is_only_dumped_where_it_is_another():
    """So that the fingerprints of earlier artifacts stay."""
    assert "error" not in VQConfig().model_dump()
    assert VQConfig(error="norm-of-squares").model_dump()["error"] == "norm-of-squares"


def test_the_norm_of_squares_has_a_gradient_where_a_code_is_met():
    quantizer = build(VQConfig(**PLAIN, error="norm-of-squares"))
    h = quantizer.decode((torch.arange(K).view(1, 3, 4),)).detach().requires_grad_()
    out = quantizer(h)
    found = gradients(out.losses["commitment"] + out.losses["codebook"], quantizer, h)
    assert not any(gradient.any() for gradient in found.values())


@given(seed=st.integers(0, 2**32 - 1))
def test_vqste_without_its_parts_is_vqvae(seed):
    plain, bare = build(VQConfig(**PLAIN), seed), build(VQSTEConfig(**BARE, beta=0.8), seed)
    h = features(seed).requires_grad_()
    a, b = plain(h), bare(h)
    assert torch.equal(a.z_q, b.z_q) and torch.equal(a.indices[0], b.indices[0])
    task = [(out.z_q**3).sum() for out in (a, b)]
    left = task[0] + a.losses["codebook"] + 0.25 * a.losses["commitment"]
    right = task[1] + 1.25 * b.losses["vq"]
    assert_close(left, right)
    left, right = gradients(left, plain, h), gradients(right, bare, h)
    assert left.keys() == right.keys()
    assert all(torch.allclose(left[name], right[name], rtol=1e-12) for name in left)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_beta_weights_the_codebook_term(beta):
    quantizer = build(VQSTEConfig(**BARE, beta=beta))
    h = features().requires_grad_()
    found = gradients(quantizer(h).losses["vq"], quantizer, h)
    assert bool(found["codebook"].any()) == (beta == 1)
    assert bool(found["h"].any()) == (beta == 0)


def test_affine_parameters_move_every_code_of_their_group_and_no_other():
    affine = AffineConfig(rate=3.0, groups=3)
    quantizer = build(VQSTEConfig(**{**BARE, "affine": affine}))
    scale, bias = quantizer.affine.scale[:, 0], quantizer.affine.bias[:, 0]
    group = torch.arange(K) // 4
    expected = (1 + 3 * scale[group]) * quantizer.codebook + 3 * bias[group]
    indices = torch.arange(K).view(1, 3, 4)
    assert_close(quantizer.decode((indices,))[0].movedim(0, -1).reshape(K, D), expected)
    assert torch.equal(quantizer.encode(quantizer.decode((indices,)))[0], indices)
    codes = quantizer.affine(quantizer.codebook)
    assert_close(quantizer.affine.inverse(codes), quantizer.codebook)
    (jacobian,) = torch.autograd.grad(codes[0].sum(), [quantizer.affine.bias])
    assert jacobian[0].any() and not jacobian[1:].any()
    with torch.no_grad():  # a gain of 0 takes no code anywhere
        quantizer.affine.scale.fill_(-1 / quantizer.affine.rate)
    assert quantizer.affine.inverse(codes).isfinite().all()


def test_synchronisation_sends_the_task_gradient_to_the_codebook():
    quantizer = build(VQSTEConfig(**{**BARE, "synchronisation": 0.3}))
    h = features().requires_grad_()
    out = quantizer(h)
    upstream = torch.randn(out.z_q.shape, dtype=FLOAT64, generator=gen(1))
    found = gradients((out.z_q * upstream).sum(), quantizer, h)
    _, sums = code_sums(upstream.movedim(1, -1).flatten(0, 2), out.indices[0].flatten(), K)
    assert_close(found["codebook"], 0.3 * sums)
    assert torch.equal(found["h"], upstream)


@pytest.mark.parametrize("affine", [None, AffineConfig(groups=2)])
def test_alternation_is_gradient_descent_on_the_codebook_loss(affine):
    alternation = AlternationConfig(steps=3, rate=5.0, momentum=0.9)
    config = VQSTEConfig(**{**BARE, "affine": affine, "alternation": alternation})
    quantizer = build(config)
    assert "codebook" not in dict(quantizer.named_parameters())
    codebook = quantizer.codebook.clone().requires_grad_()
    optimizer = torch.optim.SGD([codebook], lr=5.0, momentum=0.9)
    for step in range(2):
        out = quantizer(features(step))
        vectors = features(step).movedim(1, -1).flatten(0, 2)
        indices = out.indices[0].flatten()
        for _ in range(3):
            codes = codebook if affine is None else quantizer.affine(codebook)
            optimizer.zero_grad()
            (vectors - codes[indices]).square().mean().backward()
            optimizer.step()
        assert quantizer.update(out.stats, gen()) == {}
        assert_close(quantizer.codebook, codebook.detach())


def test_half_precision_gradients_reach_the_encoder():
    quantizer = build(VQConfig(**PLAIN)).float()
    h = features().bfloat16().requires_grad_()
    out = quantizer(h)
    sum(out.losses.values()).backward()
    assert out.z_q.dtype == torch.float32 and h.grad is not None and h.grad.any()


@pytest.mark.parametrize("kind", ["vqvae", "vqvae-ema", "vq-ste++"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_codes": 1}, r"num_codes: .* greater than or equal to 2 \(found 1\)"),
        ({"num_codes": 2**24 + 1}, r"num_codes: .* less than or equal to 16777216"),
        ({"code_dim": 0}, r"code_dim: .* greater than 0 \(found 0\)"),
        ({"init": "zeros"}, r"init: .*'kmeans'.*\(found 'zeros'\)"),
        ({"reset": {"kind": "often"}}, r"reset\.kind: expected one of .*'split'; found 'often'"),
        ({"reset": {"kind": "random", "every": 3}}, r"reset\.every: unknown key"),
    ],
)
def test_what_cannot_work_is_refused(kind, change, says):
    cls = {"vqvae": VQConfig, "vqvae-ema": VQEMAConfig, "vq-ste++": VQSTEConfig}[kind]
    with pytest.raises(ConfigError, match=f"here: {says}"):
        validate({"kind": kind} | change, cls, "here")


def test_groups_that_do_not_divide_the_codes_are_refused():
    with pytest.raises(ConfigError, match=r"num_codes \(10\) must be a multiple of .*groups \(4\)"):
        validate({"num_codes": 10, "affine": {"groups": 4}}, VQSTEConfig, "here")


def test_cosine_distance_is_that_of_llamagen():
    """Restated: unit vectors in the distances, in both losses and for the decoder."""
    quantizer = build(VQConfig(**PLAIN, distance="cosine"))
    h = features().requires_grad_()
    z = torch.nn.functional.normalize(h, dim=1)
    table = torch.nn.functional.normalize(quantizer.codebook, dim=1)
    rows = z.movedim(1, -1).flatten(0, 2)
    nearest = (rows @ table.T).argmax(dim=1)
    chosen = table[nearest].view(2, 3, 4, D).movedim(-1, 1)
    losses = {
        "codebook": (z.detach() - chosen).square().mean(),
        "commitment": (z - chosen.detach()).square().mean(),
    }
    out = quantizer(h)
    assert torch.equal(out.indices[0].flatten(), nearest)
    assert_close(out.z_q, chosen)
    for name, loss in losses.items():
        assert_close(out.losses[name], loss)
        expected, found = (gradients(value, quantizer, h) for value in (loss, out.losses[name]))
        for part in ("codebook", "h"):
            assert_close(found[part], expected[part])
    assert_close(quantizer.decode(out.indices).norm(dim=1), torch.ones(2, 3, 4, dtype=FLOAT64))


def test_lengths_of_features_mean_nothing_to_cosine_distance():
    h = features()
    for config in (VQConfig(**PLAIN, distance="cosine"), VQEMAConfig(**PLAIN, distance="cosine")):
        quantizer = build(config)
        assert torch.equal(quantizer.encode(7 * h)[0], quantizer.encode(h)[0])
        assert_close(quantizer(7 * h).z_q, quantizer(h).z_q)
        assert not torch.equal(quantizer.encode(h)[0], build(type(config)(**PLAIN)).encode(h)[0])


def test_directions_of_averages_are_codes_of_cosine_distance():
    """After one step without memory, a code is the direction of the mean of its unit vectors."""
    quantizer = build(VQEMAConfig(**PLAIN, distance="cosine", averages="ones", decay=0.0))
    out = quantizer(features())
    unit = torch.nn.functional.normalize(features(), dim=1).movedim(1, -1).flatten(0, 2)
    quantizer.update(out.stats, gen())
    for code in out.indices[0].unique():
        mean = unit[out.indices[0].flatten() == code].mean(dim=0)
        assert_close(quantizer.vectors()[code], mean / mean.norm(), rtol=1e-4, atol=1e-4)


def test_euclidean_distance_leaves_no_trace_in_dumps():
    assert "distance" not in VQConfig().model_dump() | VQEMAConfig().model_dump()
