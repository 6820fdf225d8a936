"""What a likelihood is: the border between images and a network, and the score of an output."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from imagetok.images import Images


class Likelihood(nn.Module, ABC):
    """Brings images to a network, scores its outputs, and reads them as images."""

    channels: int
    """C of what the encoder is given and the decoder gives."""
    is_linear: bool = True
    """Whether outputs are read as they are, as pixels, and not squashed first."""

    @abstractmethod
    def to_network(self, images: Images) -> Float[Tensor, "B C H W"]:
        """What the encoder is given for images: pixels in [0, 1], or classes."""

    @abstractmethod
    def loss(self, out: Float[Tensor, "B C H W"], images: Images) -> Float[Tensor, ""]:
        """The negative log-likelihood of images up to constants; out: of the decoder."""

    @abstractmethod
    def to_image(self, out: Float[Tensor, "B C H W"]) -> Images:
        """The most likely image: classes, or pixels on the scale of [0, 1] but not clamped."""
