"""The von Mises-Fisher likelihood against mpmath and a direct computation."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from imagetok.images import ImageContract
from imagetok.networks import PixelRange
from imagetok.tokenizers.likelihood import Likelihood, VMFConfig, build_likelihood
from imagetok.tokenizers.likelihood.vmf import vmf_log_normaliser

KAPPAS = (1e-2, 0.3, 1.0, 7.5, 29.99, 30.01, 81.0, 100.0, 1e3, 1e4, 1e5)
FLOAT64 = torch.float64


def exact(kappa: float, dim: int) -> tuple[float, float]:
    """ln C without its constant, and its derivative -I_m / I_{m-1}, to 40 digits."""
    with mpmath.workdps(40):
        order, at = dim // 2 - 1, mpmath.mpf(kappa)
        bessel, above = mpmath.besseli(order, at), mpmath.besseli(order + 1, at)
        return float(order * mpmath.log(at) - mpmath.log(bessel)), float(-above / bessel)


@pytest.mark.parametrize("dim", [2, 4, 12, 20, 32, 256])
def test_the_normaliser_and_its_gradient_are_those_of_mpmath(dim: int) -> None:
    switch = (dim // 2 - 1) ** 2 / 4  # where one formula takes over from the other
    kappas = [*KAPPAS, switch * 0.999 + 1e-3, switch * 1.001 + 1e-3]
    values, slopes = zip(*(exact(kappa, dim) for kappa in kappas), strict=True)
    for dtype, rtol in ((FLOAT64, 1e-9), (torch.float32, 1e-6)):
        kappa = torch.tensor(kappas, dtype=dtype).requires_grad_()
        found = vmf_log_normaliser(kappa, dim)
        found.sum().backward()
        assert found.dtype == dtype
        assert_close(found.double(), torch.tensor(values, dtype=FLOAT64), rtol=rtol, atol=1e-6)
        assert kappa.grad is not None
        slope = torch.tensor(slopes, dtype=FLOAT64)
        assert_close(kappa.grad.double(), slope, rtol=rtol, atol=0)


def test_the_normaliser_passes_gradcheck() -> None:
    kappa = torch.tensor([0.05, 3.0, 31.0, 200.0], dtype=FLOAT64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: vmf_log_normaliser(k, 12), kappa)


def test_the_density_integrates_to_one_on_the_circle() -> None:
    angles = torch.arange(4096, dtype=FLOAT64) * (2 * math.pi / 4096)
    for kappa in (0.1, 2.0, 50.0):
        log_c = vmf_log_normaliser(torch.tensor(kappa, dtype=FLOAT64), 2) - math.log(2 * math.pi)
        density = (log_c + kappa * angles.cos()).exp()
        assert_close(density.mean() * 2 * math.pi, torch.tensor(1.0, dtype=FLOAT64))


def build(num_classes: int = 5) -> Likelihood:
    image = ImageContract(
        mode="labels", height=3, width=4, interpolation="nearest", num_classes=num_classes
    )
    return build_likelihood(VMFConfig(log_scale=math.log(0.02)), image, PixelRange(0, 1)).double()


def batch(num_classes: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    out = torch.randn(2, 2 * math.ceil(num_classes / 2), 3, 4, dtype=FLOAT64, generator=draw)
    return out, torch.randint(num_classes, (2, 3, 4), generator=draw)


@pytest.mark.parametrize("num_classes", [2, 5, 6])
def test_classes_enter_as_one_hot_and_come_back(num_classes: int) -> None:
    likelihood, (_, labels) = build(num_classes), batch(num_classes)
    inside = likelihood.to_network(labels)
    channels = num_classes + num_classes % 2
    assert likelihood.channels == channels and inside.shape == (2, channels, 3, 4)
    assert inside.dtype == FLOAT64 and torch.equal(inside.argmax(dim=1), labels)
    assert torch.equal(inside.sum(dim=1), torch.ones(2, 3, 4, dtype=FLOAT64))
    assert torch.equal(likelihood.to_image(inside), labels)


def test_the_channel_without_a_class_is_never_given_back() -> None:
    out, _ = batch(5)
    out[:, 5] = 100.0
    assert build(5).to_image(out).max() < 5


def test_the_loss_is_minus_the_log_density() -> None:
    likelihood, (out, labels) = build(), batch()
    kappa = 1 / (math.exp(math.log(0.02)) + 1e-9)
    u = torch.nn.functional.softplus(out)
    u = u / u.norm(dim=1, keepdim=True)
    one_hot = likelihood.to_network(labels)
    log_density = kappa * (u * one_hot).sum(dim=1) + exact(kappa, 6)[0]
    expected = -log_density.sum(dim=(1, 2)).mean()
    assert_close(likelihood.loss(out, labels), expected, rtol=1e-6, atol=0)
    perfect = likelihood.loss(200 * (one_hot - 0.5), labels)
    assert perfect < likelihood.loss(out, labels)


def test_the_loss_has_the_right_gradients() -> None:
    likelihood, (out, labels) = build(), batch()
    leaves = (out.requires_grad_(), *likelihood.parameters())
    assert len(leaves) == 2
    assert torch.autograd.gradcheck(lambda *leaves: likelihood.loss(leaves[0], labels), leaves)


def test_half_precision_is_scored_in_float32() -> None:
    likelihood, (out, labels) = build().float(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood.loss(out.bfloat16(), labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, likelihood.loss(out.bfloat16().float(), labels))
