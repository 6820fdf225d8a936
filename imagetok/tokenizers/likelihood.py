"""Likelihoods: how a decoder's output is scored against an image, and read as one."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks import PixelRange


class MSEConfig(Section):
    """Mean squared error; the constant variance of the Gaussian is absorbed in the loss weights."""

    kind: Literal["mse"] = "mse"


LikelihoodConfig = MSEConfig


class Likelihood(nn.Module, ABC):
    """Scores decoder outputs."""

    @abstractmethod
    def loss(
        self, out: Float[Tensor, "B D H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        """The negative log-likelihood up to constants; images in [0, 1]."""

    @abstractmethod
    def to_image(self, out: Float[Tensor, "B D H W"]) -> Float[Tensor, "B C H W"]:
        """The most likely image, on the scale of [0, 1] but not clamped to it."""


class MSELikelihood(Likelihood):
    """Mean over B, C, H, W of the squared error on a unit-wide range (EdVAE eq. 12).

    pixels: the range of the network that is scored.
    """

    def __init__(self, pixels: PixelRange):
        super().__init__()
        self.pixels = pixels

    def loss(
        self, out: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        return (self.to_image(out) - images.float()).square().mean()

    def to_image(self, out: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.pixels.to_unit(out)
