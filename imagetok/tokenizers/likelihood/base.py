"""The base class of likelihoods."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from imagetok.images import Images


class Likelihood(nn.Module, ABC):
    """Converts images to network inputs and back, and computes the reconstruction loss."""

    channels: int
    """Number of channels of the encoder's input and the decoder's output."""
    is_linear: bool = True
    """Whether decoder outputs are pixels, without a nonlinearity in the likelihood."""

    @abstractmethod
    def to_network(self, images: Images) -> Float[Tensor, "B C H W"]:
        """Convert images (pixels in [0, 1], or classes) to the encoder's input."""

    @abstractmethod
    def loss(self, out: Float[Tensor, "B C H W"], images: Images) -> Float[Tensor, ""]:
        """Return the negative log-likelihood of images up to constants; out: decoder output."""

    @abstractmethod
    def to_image(self, out: Float[Tensor, "B C H W"]) -> Images:
        """Return the most likely images: classes, or pixels on the scale of [0, 1], not clamped."""
