"""Likelihoods of pixels: values, gradients, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from imagetok.config import load_config
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.networks import PixelRange
from imagetok.tokenizers.likelihood import (
    ARELBOConfig,
    GaussianConfig,
    Likelihood,
    LikelihoodConfig,
    MSEConfig,
    build_likelihood,
)
from imagetok.training.config import TokenizerRun

CONFIGS: list[LikelihoodConfig] = [MSEConfig(), ARELBOConfig(), GaussianConfig()]
every_kind = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.kind)
IMAGE = ImageContract(mode="rgb", height=4, width=6)
PIXELS = 3 * 4 * 6
CENTRED = PixelRange(-0.5, 0.5)
DIGITS = Path(__file__).parents[3] / "configs" / "digits"


def build(config: LikelihoodConfig, pixels: PixelRange = CENTRED) -> Likelihood:
    return build_likelihood(config, IMAGE, pixels).double()


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A decoder's output, which needs a gradient, and images."""
    draw = torch.Generator().manual_seed(seed)
    out, images = (torch.rand(5, 3, 4, 6, dtype=torch.float64, generator=draw) for _ in range(2))
    return (out - 0.5).requires_grad_(), images


def gradient(config: LikelihoodConfig, out: Tensor, images: Tensor) -> Tensor:
    return torch.autograd.grad(build(config).loss(out, images), out)[0]


@every_kind
@pytest.mark.parametrize("pixels", [PixelRange(0, 1), CENTRED, PixelRange(-1, 1)])
def test_images_pass_into_the_network_s_range_and_back(
    config: LikelihoodConfig, pixels: PixelRange
) -> None:
    likelihood = build(config, pixels)
    _, images = batch()
    inside = likelihood.to_network(images)
    assert likelihood.channels == 3
    assert_close(inside, images * (pixels.high - pixels.low) + pixels.low)
    assert_close(likelihood.to_image(inside), images)
    perfect, worse = (likelihood.loss(inside + shift, images) for shift in (0.0, 0.1))
    assert perfect < worse


def test_the_log_of_the_error_has_the_gradient_of_the_error_up_to_a_factor() -> None:
    out, images = batch()
    mse = build(MSEConfig()).loss(out, images)
    assert_close(build(ARELBOConfig()).loss(out, images), PIXELS / 2 * (PIXELS * mse).log())
    factor = PIXELS / (2 * mse.detach())
    assert_close(gradient(ARELBOConfig(), out, images), factor * gradient(MSEConfig(), out, images))


def test_the_log_of_the_error_is_a_gaussian_s_at_its_most_likely_variance() -> None:
    out, images = batch()
    error = (out.detach() + 0.5 - images).square().sum() / len(images)
    best = GaussianConfig(log_variance=math.log(error / PIXELS))
    constant = PIXELS / 2 * (1 - math.log(PIXELS))
    found = build(ARELBOConfig()).loss(out, images) + constant
    assert_close(build(best).loss(out, images), found, rtol=1e-6, atol=0)
    assert_close(
        gradient(best, out, images), gradient(ARELBOConfig(), out, images), rtol=1e-6, atol=0
    )


def test_the_log_of_no_error_is_finite() -> None:
    _, images = batch()
    out = (images - 0.5).requires_grad_()
    found = build(ARELBOConfig()).loss(out, images)
    assert found.item() == pytest.approx(PIXELS / 2 * (math.log(1e-8) - 1))
    assert not gradient(ARELBOConfig(), out, images).any()


def test_the_gaussian_is_that_of_torch_distributions() -> None:
    out, images = batch()
    likelihood = build(GaussianConfig(log_variance=-1.7))
    density = Normal(out + 0.5, math.exp(-1.7 / 2)).log_prob(images)
    expected = -density.sum() / len(images) - PIXELS / 2 * math.log(2 * math.pi)
    assert_close(likelihood.loss(out, images), expected, rtol=1e-6, atol=0)


def test_the_gaussian_learns_the_mean_squared_error_as_its_variance() -> None:
    out, images = batch()
    mse = build(MSEConfig()).loss(out, images).item()
    likelihood = build(GaussianConfig(log_variance=math.log(mse)))
    (parameter,) = likelihood.parameters()
    parameter.data.fill_(math.log(mse))
    likelihood.loss(out, images).backward()
    assert parameter.grad is not None and abs(parameter.grad) < 1e-12
    parameter.data.add_(0.1)
    parameter.grad = None
    likelihood.loss(out, images).backward()
    assert parameter.grad > 0.1


@every_kind
def test_likelihoods_have_the_right_gradients(config: LikelihoodConfig) -> None:
    out, images = batch()
    likelihood = build(config)
    leaves = (out[:2].detach().requires_grad_(), *likelihood.parameters())
    assert torch.autograd.gradcheck(lambda *leaves: likelihood.loss(leaves[0], images[:2]), leaves)


@every_kind
def test_half_precision_is_scored_in_float32(config: LikelihoodConfig) -> None:
    out, images = (x.detach().float() for x in batch())
    likelihood = build(config).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood.loss(out.bfloat16(), images)
    assert found.dtype == torch.float32
    assert torch.equal(found, likelihood.loss(out.bfloat16().float(), images))


def test_accumulation_is_refused_where_micro_batches_do_not_add_up() -> None:
    path = DIGITS / "sqvae.yaml"
    assert load_config(path, TokenizerRun).tokenizer.likelihood == ARELBOConfig()
    with pytest.raises(ConfigError, match=r"sqvae.yaml: train.accumulation: expected 1, .*found 2"):
        load_config(path, TokenizerRun, ["train.accumulation=2"])
    gaussian = "tokenizer.likelihood={kind: gaussian}"
    load_config(path, TokenizerRun, ["train.accumulation=2", gaussian])
