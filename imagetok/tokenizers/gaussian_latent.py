"""The continuous latent of a VAE: a diagonal Gaussian."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section, Size

_LOG_VARIANCES = -30.0, 20.0  # so that variances and deviations are finite in float32


class LatentConfig(Section):
    """The latent of a VAE (Kingma & Welling 2014), which has no codes.

    per: `image` is one vector of size `dim` per image, computed from the encoder's features and
    mapped back to features by linear layers; `position` is a vector at every position where a
    tokenizer with the same network has a code. The loss `kl` is a sum over an image, as needed for
    the likelihoods `arelbo` and `gaussian` with weight 1. With `mse`, a mean over pixels, set its
    weight to 2 v / (channels * height * width), where v is the decoder's variance.
    """

    kind: Literal["gaussian"] = "gaussian"
    dim: Size = 64
    """Dimensions per image or position."""
    per: Literal["image", "position"] = "image"
    """One vector per image, or one at every position of the grid."""
    losses: ClassVar[tuple[str, ...]] = ("kl",)


class Posterior(NamedTuple):
    """Mean and log variance of a Gaussian with independent dimensions."""

    mean: Float[Tensor, "B D h w"]
    log_variance: Float[Tensor, "B D h w"]


def gaussian_kl(posterior: Posterior) -> Float[Tensor, ""]:
    """Return KL(N(mean, variance) || N(0, 1)) in nats: sum over dimensions, mean over the batch.

    Kingma & Welling 2014, App. B.
    """
    mean, log_variance = posterior
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum() / (2 * len(mean))


def reparameterise(
    posterior: Posterior, noise: Float[Tensor, "B D h w"]
) -> Float[Tensor, "B D h w"]:
    """Return a sample as a function of standard normal noise (Kingma & Welling 2014, 2.4)."""
    mean, log_variance = posterior
    return mean + (log_variance / 2).exp() * noise


class GaussianLatent(nn.Module):
    """The latent between an encoder with `in_channels` outputs and a decoder with `dim` inputs."""

    def __init__(self, dim: int, per: Literal["image", "position"], grid: tuple[int, int]):
        super().__init__()
        self.num_heads = 2 if per == "position" else 1
        self.in_channels = self.num_heads * dim
        features = dim * grid[0] * grid[1]
        is_vector = per == "image"
        self.to_posterior = _Linear(features, (2 * dim, 1, 1)) if is_vector else nn.Identity()
        self.to_features = _Linear(dim, (dim, *grid)) if is_vector else nn.Identity()

    def posterior(self, h: Float[Tensor, "B C H W"]) -> Posterior:
        """Return the posterior of the latent from the encoder's output."""
        with torch.autocast(h.device.type, enabled=False):  # half precision overflows in exp
            wide = h.to(torch.promote_types(h.dtype, torch.float32))
            mean, log_variance = self.to_posterior(wide).chunk(2, dim=1)
            return Posterior(mean, log_variance.clamp(*_LOG_VARIANCES))

    def draw(
        self, posterior: Posterior, generator: torch.Generator | None
    ) -> Float[Tensor, "B D h w"]:
        """Draw a latent; differentiable."""
        mean = posterior.mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return reparameterise(posterior, noise)

    def forward(self, z: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D H W"]:
        """Map a latent to the decoder's input."""
        return self.to_features(z)


class _Linear(nn.Module):
    """A linear layer that reads a flattened map and returns a map of shape `shape`."""

    def __init__(self, in_features: int, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        self.shape = shape
        self.linear = nn.Linear(in_features, channels * height * width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.linear(x.flatten(1)).unflatten(1, self.shape)
