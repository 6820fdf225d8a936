"""The von Mises-Fisher likelihood of label maps, and its normaliser."""

import math
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imagetok.config import Section
from imagetok.tokenizers.likelihood.base import Likelihood

_EPS = 1e-9  # kappa stays below its inverse
_TAIL_FROM = 30.0
_TAIL_TERMS = 40


class VMFConfig(Section):
    """A von Mises-Fisher density of one-hot classes, summed over pixels (Takida et al. 2022).

    `log_scale` is the initial lambda in kappa = 1 / exp(lambda).
    """

    kind: Literal["vmf"] = "vmf"
    log_scale: float = math.log(0.01)
    """Start of lambda in kappa = 1 / exp(lambda)."""
    is_additive: ClassVar[bool] = True


class VMFLikelihood(Likelihood):
    """vMF likelihood of classes, as one-hot vectors in 2m = 2 ceil(num_classes / 2) dimensions.

    Decoder outputs are mapped to directions u by softplus and normalisation; the loss per pixel is
    -kappa u[class] - ln C(kappa). The dimension 2m is even, so that the order m - 1 of the Bessel
    function in C is an integer. Pixels of the value `ignore` have no term, and are zero vectors in
    the encoder's input.
    """

    is_linear = False  # a sigmoid before softplus and normalisation would flatten the output

    def __init__(self, num_classes: int, log_scale: float, ignore: int | None = None):
        super().__init__()
        self.num_classes = num_classes
        self.ignore = ignore
        self.channels = 2 * math.ceil(num_classes / 2)
        self.log_scale = nn.Parameter(torch.tensor(log_scale))

    def to_network(self, images: Int[Tensor, "B H W"]) -> Float[Tensor, "B C H W"]:
        if self.ignore is None:
            one_hot = nn.functional.one_hot(images, self.channels)
        else:
            has_class = images != self.ignore
            one_hot = nn.functional.one_hot(images.where(has_class, 0), self.channels)
            one_hot = one_hot * has_class[..., None]
        return one_hot.movedim(-1, 1).to(self.log_scale.dtype)

    def loss(
        self, out: Float[Tensor, "B C H W"], images: Int[Tensor, "B H W"]
    ) -> Float[Tensor, ""]:
        with torch.autocast(out.device.type, enabled=False):  # half precision sums would overflow
            kappa = 1 / (self.log_scale.exp() + _EPS)
            normaliser = vmf_log_normaliser(kappa, self.channels)
            if self.ignore is None:
                at_class = self._directions(out).gather(1, images[:, None]).sum() / len(images)
                return -kappa * at_class - images[0].numel() * normaliser
            has_class = images != self.ignore
            # Before the directions are computed, so that no value there, NaN included, counts.
            u = self._directions(out.where(has_class[:, None], 0))
            at_class = u.gather(1, images.where(has_class, 0)[:, None])[:, 0].where(has_class, 0)
            num_pixels = has_class.sum() / len(images)
            return -kappa * at_class.sum() / len(images) - num_pixels * normaliser

    def to_image(self, out: Float[Tensor, "B C H W"]) -> Int[Tensor, "B H W"]:
        """Return the most likely class of every pixel."""
        return out[:, : self.num_classes].argmax(dim=1)  # softplus and the norm keep the order

    def _directions(self, out: Tensor) -> Tensor:
        return nn.functional.normalize(nn.functional.softplus(out.to(self.log_scale.dtype)), dim=1)


def vmf_log_normaliser(kappa: Float[Tensor, "*S"], dim: int) -> Float[Tensor, "*S"]:
    """Return ln C(kappa) of the vMF density C exp(kappa u . x), without its constant.

    kappa: > 0. dim: even. The result is (m - 1) ln kappa - ln I_{m-1}(kappa) with m = dim / 2,
    without -m ln(2 pi). Computed in float64; the relative error is below 1e-9 for kappa up to 1e5.
    """
    value = _LogBessel.apply(kappa, dim // 2 - 1)
    assert isinstance(value, Tensor)
    return -value


class _LogBessel(torch.autograd.Function):
    """f(kappa) = ln(I_v(kappa) / kappa^v) and f' = I_{v+1} / I_v, the mean of u . x."""

    @staticmethod
    def forward(ctx: Any, kappa: Tensor, order: int) -> Tensor:
        # MPS does not support float64, so the scalar is computed on the CPU.
        wide = (kappa.cpu() if kappa.device.type == "mps" else kappa).double()
        value = _log_bessel(wide, order)
        ctx.save_for_backward((_log_bessel(wide, order + 1) - value + wide.log()).exp().to(kappa))
        return value.to(kappa)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = ctx.saved_tensors
        return slope * grad, None


def _log_bessel(kappa: Tensor, order: int) -> Tensor:
    """Return ln(I_v(kappa) / kappa^v), v = order >= 0, in the precision of kappa."""
    switch = max(_TAIL_FROM, order**2 / 4)
    small, large = kappa.clamp(max=switch), kappa.clamp(min=switch)
    return torch.where(kappa < switch, _by_series(small, order, switch), _by_tail(large, order))


def _by_series(kappa: Tensor, order: int, largest: float) -> Tensor:
    """Return the log of the series 2^-v sum_k (kappa^2 / 4)^k / (k! (v + k)!), whose terms are > 0.

    The largest term has k < kappa / 2, and the terms around it decay like a Gaussian with variance
    below kappa / 4, so terms 20 standard deviations away are negligible.
    """
    count = int(largest / 2 + 10 * largest**0.5) + 20
    k = torch.arange(count, dtype=kappa.dtype, device=kappa.device)
    factorials = torch.lgamma(k + 1) + torch.lgamma(k + order + 1)
    terms = k * (2 * (kappa[..., None] / 2).log()) - factorials
    return terms.logsumexp(dim=-1) - order * math.log(2)


def _by_tail(kappa: Tensor, order: int) -> Tensor:
    """Return the log of Hankel's asymptotic expansion, for large kappa.

    I_v(kappa) = e^kappa / sqrt(2 pi kappa) sum_k prod_{j <= k} -(4 v^2 - (2j - 1)^2) / (8 j kappa).
    For kappa >= v^2 / 4, each of the terms used is at most 2 / k times the one before.
    """
    j = torch.arange(1, _TAIL_TERMS, dtype=kappa.dtype, device=kappa.device)
    factors = ((2 * j - 1).square() - 4 * order**2) / (8 * j * kappa[..., None])
    total = 1 + factors.cumprod(dim=-1).sum(dim=-1)
    return kappa - 0.5 * (2 * math.pi * kappa).log() + total.log() - order * kappa.log()
