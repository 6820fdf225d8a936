"""The pixel range inside a network; outside, pixels are in [0, 1]."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class PixelRange(NamedTuple):
    """The values of black and white inside a network."""

    low: float
    high: float

    def to_network(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Map pixels in [0, 1] to the range of the network."""
        return images * (self.high - self.low) + self.low

    def to_unit(self, out: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Map pixels back to the scale of [0, 1], without clamping."""
        return (out - self.low) / (self.high - self.low)


CENTRED = PixelRange(-0.5, 0.5)
UNIT = PixelRange(0.0, 1.0)
SYMMETRIC = PixelRange(-1.0, 1.0)
