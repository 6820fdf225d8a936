"""Layers of the VQ-VAE networks: 3x3-1x1 residual blocks and 1x1 output convolutions."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

Width = Annotated[int, Field(ge=2, le=8192, multiple_of=2)]


class SkipBlock(nn.Module):
    """Residual block: x + [ReLU, 3x3 convolution to `inner` channels, ReLU, 1x1 convolution](x).

    norms: whether each convolution is followed by batch norm. The skip connection carries x itself:
    the first ReLU is not in place (in some public code it is, so that relu(x) is added).
    """

    def __init__(self, channels: int, inner: int, norms: tuple[bool, bool] = (False, False)):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, inner, 3, padding=1),
            *([nn.BatchNorm2d(inner)] if norms[0] else []),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1),
            *([nn.BatchNorm2d(channels)] if norms[1] else []),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.branch(x)


class ReadOut(nn.Conv2d):
    """A 1x1 convolution in the precision of its weights; half precision outputs would tie."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def match_channels(in_channels: int, out_channels: int) -> nn.Module:
    """Return an identity if the channels are equal, as in the papers, else a 1x1 convolution."""
    return nn.Identity() if in_channels == out_channels else ReadOut(in_channels, out_channels)
