"""Gaussian likelihoods of pixels, which differ in their variance.

`MSELikelihood` is a mean over pixels; the others are sums over the pixels of an image, as the
losses of SQ-VAE are sums over its latents.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks import PixelRange
from imagetok.processes import all_reduce
from imagetok.tokenizers.likelihood.base import Likelihood

_MIN_SQUARED_ERROR = 1e-8  # per image; avoids the logarithm of 0


class MSEConfig(Section):
    """Mean squared error; the constant variance of the Gaussian is absorbed in the loss weights."""

    kind: Literal["mse"] = "mse"
    is_additive: ClassVar[bool] = True


class ARELBOConfig(Section):
    """Log of the squared error: a Gaussian with its maximum-likelihood variance (SQ-VAE's ARELBO).

    A sum over pixels up to constants, for losses that are sums over latents.
    """

    kind: Literal["arelbo"] = "arelbo"
    is_additive: ClassVar[bool] = False


class GaussianConfig(Section):
    """A Gaussian with one learned variance, a sum over pixels; `log_variance` is its start."""

    kind: Literal["gaussian"] = "gaussian"
    log_variance: float = math.log(0.1)
    """Start of the logarithm of the variance."""
    is_additive: ClassVar[bool] = True


class PixelLikelihood(Likelihood):
    """Base class for pixels, which are in [0, 1] outside and in the network's range inside."""

    def __init__(self, channels: int, pixels: PixelRange):
        super().__init__()
        self.channels = channels
        self.pixels = pixels

    def to_network(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.pixels.to_network(images)

    def to_image(self, out: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.pixels.to_unit(_wide(out))

    def squared_error(self, out: Tensor, images: Tensor) -> Float[Tensor, ""]:
        """Return the squared error: sum over pixels, mean over the batch."""
        return (self.to_image(out) - _wide(images)).square().sum() / len(images)


class MSELikelihood(PixelLikelihood):
    """Mean squared error over B, C, H, W for pixels in [0, 1] (EdVAE eq. 12)."""

    def loss(
        self, out: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        return (self.to_image(out) - _wide(images)).square().mean()


class ARELBOLikelihood(PixelLikelihood):
    """dim/2 ln(squared error per image), dim = C H W (Takida et al. 2022).

    The logarithm is taken of the error of the whole batch, so the loss is not a mean over images,
    and gradient accumulation is refused. With several processes, the error in the logarithm is the
    mean over processes, reduced without gradient in training, so that the mean of value and
    gradient over processes equals that of a single process with the whole batch.
    """

    def loss(
        self, out: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        with torch.autocast(out.device.type, enabled=False):
            error = self.squared_error(out, images)
            whole = error.detach()
            if self.training:
                whole = all_reduce(whole, "mean")
            whole = whole.clamp_min(_MIN_SQUARED_ERROR)
            # error / whole - 1 has the gradient of ln(error); below the smallest error it continues
            # the logarithm as a straight line.
            return images[0].numel() / 2 * (whole.log() + (error - whole) / whole)


class GaussianLikelihood(PixelLikelihood):
    """Squared error / (2 e^lambda) + dim lambda / 2 with a learned lambda, dim = C H W (SQ-VAE)."""

    def __init__(self, channels: int, pixels: PixelRange, log_variance: float):
        super().__init__(channels, pixels)
        self.log_variance = nn.Parameter(torch.tensor(log_variance))

    def loss(
        self, out: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        with torch.autocast(out.device.type, enabled=False):
            precision = (-self.log_variance).exp()
            normaliser = images[0].numel() * self.log_variance
            return (precision * self.squared_error(out, images) + normaliser) / 2


def _wide(x: Tensor) -> Tensor:
    """Convert half precision to float32, because sums over an image would overflow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
