"""What the networks of the VQ-VAE family share: 3x3-1x1 residual blocks and 1x1 read-outs."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

Width = Annotated[int, Field(ge=2, le=8192, multiple_of=2)]


class SkipBlock(nn.Module):
    """x + [ReLU, 3x3 to `inner` channels, ReLU, 1x1 back](x), each convolution with a norm or not.

    The skip carries x as it came: the first ReLU is not in place (in some public code it is, and
    the skip then carries relu(x)).
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
    """A 1x1 convolution in its weights' own precision, because codes read off half tie."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def match_channels(in_channels: int, out_channels: int) -> nn.Module:
    """Nothing where the channels agree already, as in the papers; else a 1x1 convolution."""
    return nn.Identity() if in_channels == out_channels else ReadOut(in_channels, out_channels)
