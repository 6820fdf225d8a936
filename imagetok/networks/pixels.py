"""The pixel range of a network, which stays inside the autoencoder that has it."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class PixelRange(NamedTuple):
    """What black and white are to a network; to everyone else they are 0 and 1."""

    low: float
    high: float

    def to_network(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """From [0, 1]."""
        return images * (self.high - self.low) + self.low

    def to_unit(self, out: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Back to the scale of [0, 1], not clamped to it."""
        return (out - self.low) / (self.high - self.low)


CENTRED = PixelRange(-0.5, 0.5)
UNIT = PixelRange(0.0, 1.0)
SYMMETRIC = PixelRange(-1.0, 1.0)
