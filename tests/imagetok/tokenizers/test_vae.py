"""The VAE: its divergence and draws in float64, its path at test time, and that it has no codes."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from imagetok import seeding
from imagetok.config import validate
from imagetok.data import open_images, parse_spec
from imagetok.errors import ArtifactError, ConfigError, InputError, NotFiniteError
from imagetok.evaluation import evaluate_reconstruction
from imagetok.tokenizers import (
    Autoencoder,
    Tokenizer,
    TokenizerConfig,
    build_autoencoder,
    build_tokenizer,
)
from imagetok.tokenizers.gaussian_latent import Posterior, gaussian_kl, reparameterise
from imagetok.tokenizers.vae import VAE

CONV = {"kind": "conv", "width": 8, "groups": 2, "init": "torch", "residual_gain": 0.5}
TREE = {
    "image": {"mode": "grey", "height": 16, "width": 16},
    "network": CONV,
    "latent": {"kind": "gaussian", "dim": 6},
}
every_scope = pytest.mark.parametrize("per", ["image", "position"])


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(per: str = "image", **changes: object) -> VAE:
    tree = copy.deepcopy(TREE) | changes
    tree["latent"]["per"] = per
    seeding.reseed_global(0)
    model = build_autoencoder(validate(tree, TokenizerConfig, "test"))
    assert isinstance(model, VAE)
    return model


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=gen(1))


def posterior(seed: int) -> Posterior:
    shape = 3, 5, 2, 4
    mean, log_variance = torch.randn(2, *shape, generator=gen(seed), dtype=torch.float64)
    return Posterior(mean.requires_grad_(), (3 * log_variance).requires_grad_())


@given(seed=st.integers(0, 2**32 - 1))
def test_kl_and_its_gradient_are_those_of_torch_distributions(seed: int) -> None:
    given_, again = posterior(seed), posterior(seed)
    found = gaussian_kl(given_)
    normal = Normal(again.mean, (again.log_variance / 2).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).sum() / 3
    assert_close(found, expected)
    found.backward()
    expected.backward()
    for one, other in zip(given_, again, strict=True):
        assert_close(one.grad, other.grad)


def test_kl_is_zero_at_the_prior_only() -> None:
    at_prior = Posterior(torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1))
    assert gaussian_kl(at_prior) == 0
    for moved in (
        at_prior._replace(mean=at_prior.mean + 0.1),
        Posterior(*at_prior[:1], at_prior[1] - 1),
    ):
        assert gaussian_kl(moved) > 0


@given(seed=st.integers(0, 2**32 - 1))
def test_draws_and_their_gradient_are_those_of_rsample(seed: int) -> None:
    given_, again = posterior(seed), posterior(seed)
    noise = torch.randn(given_.mean.shape, generator=gen(seed), dtype=torch.float64)
    z = reparameterise(given_, noise)
    torch.manual_seed(seed)
    scale = (again.log_variance / 2).exp()
    expected = Normal(again.mean, scale).rsample()
    assert_close(z, expected)
    weights = torch.randn(z.shape, generator=gen(seed + 1), dtype=torch.float64)
    (z * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(given_, again, strict=True):
        assert_close(one.grad, other.grad)


@every_scope
@pytest.mark.parametrize("network", [CONV, {"kind": "sqvae", "form": "net_28", "width": 8}])
def test_the_latent_has_its_size_on_every_network(per: str, network: dict) -> None:
    model = build(per, network=network).eval()
    h = model.encoder(model.likelihood.to_network(images()))
    mean, log_variance = model.latent.posterior(h)
    side = 8 if network is CONV else 4
    assert (
        mean.shape == log_variance.shape == ((3, 6, 1, 1) if per == "image" else (3, 6, side, side))
    )
    out = model(images(), generator=gen(0))
    assert out.x_hat.shape == images().shape and out.indices == () and out.stats == {}
    assert list(out.losses) == ["reconstruction", "kl"]
    assert_close(out.losses["kl"], gaussian_kl(Posterior(mean, log_variance)))


@every_scope
def test_training_draws_and_the_test_path_takes_the_mean(per: str) -> None:
    model = build(per)
    first, again, other = (model(images(), generator=gen(seed)).x_hat for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    x_hat = model.reconstruct(images())
    assert torch.equal(x_hat, model.reconstruct(images(), generator=gen(5))) and model.training
    with torch.no_grad():  # a posterior without variance draws its mean
        if per == "image":
            model.latent.to_posterior.linear.bias[6:] = -1000.0
        else:
            model.encoder.layers[-1].bias[6:] = -1000.0
    assert_close(
        model(images(), generator=gen(5)).x_hat, model.reconstruct(images()), atol=1e-5, rtol=0
    )


def test_each_loss_reaches_what_it_should() -> None:
    model = build()
    losses = model(images(), generator=gen(0)).losses
    losses["kl"].backward(retain_graph=True)
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"encoder.layers.0.weight", "latent.to_posterior.linear.weight"} <= reached
    assert not any(name.startswith(("decoder.", "latent.to_features.")) for name in reached)
    losses["reconstruction"].backward()
    for name in ("latent.to_features.linear.weight", "decoder.layers.0.branch.1.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and gradient.any()


def test_log_variances_that_overflow_are_held() -> None:
    model = build("position")
    h = torch.full((1, 12, 8, 8), 1e30)
    held = model.latent.posterior(h).log_variance
    assert torch.isfinite(held.exp()).all() and (held == 20).all()
    assert (model.latent.posterior(-h).log_variance == -30).all()


def test_the_latent_is_float32_under_autocast() -> None:
    model = build()
    h = torch.randn(2, 6, 8, 8, generator=gen(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.latent.posterior(h)
    assert found.mean.dtype == torch.float32
    assert torch.equal(found.mean, model.latent.posterior(h.float()).mean)


@every_scope
def test_saved_and_loaded_it_gives_the_same_images(per: str, tmp_path) -> None:
    model = build(per).eval()
    fingerprint = model.fingerprint
    model.save_pretrained(tmp_path / "vae", {"digits test mse": 0.5})
    assert model.fingerprint == fingerprint
    loaded = Autoencoder.from_pretrained(tmp_path / "vae")
    assert isinstance(loaded, VAE) and loaded.fingerprint == fingerprint
    assert torch.equal(loaded.reconstruct(images()), model.reconstruct(images()))
    card = (tmp_path / "vae" / "README.md").read_text()
    assert "Autoencoder.from_pretrained" in card and "digits test mse" in card


def test_a_tokenizer_is_an_autoencoder_but_a_vae_is_no_tokenizer(tmp_path) -> None:
    quantizer = {"kind": "vqvae", "num_codes": 8, "code_dim": 4}
    tree = {k: v for k, v in TREE.items() if k != "latent"} | {"quantizer": quantizer}
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = Autoencoder.from_pretrained(tmp_path / "tokenizer")
    assert isinstance(loaded, Tokenizer) and loaded.fingerprint == tokenizer.fingerprint
    build().save_pretrained(tmp_path / "vae")
    with pytest.raises(ArtifactError, match=r"expected a tokenizer.*VAE.*no codes.*quantizer"):
        Tokenizer.from_pretrained(tmp_path / "vae")


@pytest.mark.usefixtures("untyped")
def test_asking_it_for_codes_says_what_to_use() -> None:
    model = build()
    for ask in (lambda: model.encode(images()), lambda: model.decode((torch.zeros(1, 8, 8),))):
        with pytest.raises(
            InputError, match=r"no codes; use reconstruct\(\), or train a tokenizer"
        ):
            ask()
    with pytest.raises(ConfigError, match="`latent`, which is continuous"):
        build_tokenizer(model.config)
    with pytest.raises(InputError, match="expected"):
        model.reconstruct(torch.rand(1, 3, 16, 16))
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="NaN"):
        model.reconstruct(images())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": {"kind": "vqvae"}}, r"one grid of codes.*found `quantizer` and `latent`"),
        ({"network": {"kind": "vqvae2"}}, r"a grid of codes per level.*found `latent`"),
        ({"latent": {"kind": "gaussian", "dim": 0}}, r"latent\.dim"),
        ({"latent": {"kind": "gaussian", "num_codes": 8}}, r"latent\.num_codes: unknown key"),
    ],
)
def test_what_does_not_fit_a_vae_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(TREE | changes, TokenizerConfig, "test")


def test_it_is_evaluated_without_measures_of_codes() -> None:
    model = build()
    config, split = parse_spec("digits:test")
    dataset = open_images(config, split, model.image)
    measures = evaluate_reconstruction(model, dataset)
    assert list(measures) == ["num_images", "mse", "psnr_db", "ssim"]
    originals = dataset.read(range(len(dataset))).images.float() / 255
    expected = (model.eval().reconstruct(originals) - originals).square().mean()
    assert measures["mse"] == pytest.approx(float(expected), rel=1e-5)
