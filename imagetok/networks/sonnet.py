"""The VQ-VAE network of DeepMind's Sonnet example (van den Oord et al. 2017, section 4.1).

Strided 4x4 convolutions, a 3x3 convolution and residual blocks; the decoder is the mirror image
with a linear output. The VQ-VAE of the paper has twice the width, also inside residual blocks.
"""

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks.pixels import CENTRED, PixelRange
from imagetok.networks.residual import ReadOut, SkipBlock, Width


class SonnetConfig(Section):
    """Each 4x4 convolution with stride 2 halves the resolution; the first has half the width."""

    kind: Literal["sonnet"] = "sonnet"
    width: Width = 128
    """Number of channels."""
    residual_width: Annotated[int, Field(ge=1, le=8192)] = 32
    """Channels inside a residual layer."""
    residual_layers: Annotated[int, Field(ge=0, le=64)] = 2
    """Number of residual layers."""
    halvings: Annotated[int, Field(ge=1, le=6)] = 2
    """Number of convolutions with stride 2."""
    pixels: ClassVar[PixelRange] = CENTRED
    any_size: ClassVar[bool] = True

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 2**self.halvings


class Contraction(nn.Module):
    """Encoder part: (B, in_channels, H, W) -> (B, width, H / 2^halvings, W / 2^halvings), >= 0."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        residual_width: int,
        residual_layers: int,
        halvings: int,
    ):
        super().__init__()
        widths = [in_channels, width // 2, *(width for _ in range(halvings - 1))]
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Conv2d(into, out, 4, stride=2, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(widths[-1], width, 3, padding=1))
        layers += [SkipBlock(width, residual_width) for _ in range(residual_layers)]
        self.layers = nn.Sequential(*layers, nn.ReLU())

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.layers(x)


class Expansion(nn.Module):
    """Decoder part: (B, in_channels, h, w) -> (B, out_channels, h * 2^halvings, w * 2^halvings).

    Its output is linear.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        residual_width: int,
        residual_layers: int,
        halvings: int,
    ):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1)]
        layers += [SkipBlock(width, residual_width) for _ in range(residual_layers)]
        halves = [width // 2] if halvings > 1 else []
        widths = [*(width for _ in range(max(halvings - 1, 1))), *halves, out_channels]
        for into, out in pairwise(widths):
            layers += [nn.ReLU(), nn.ConvTranspose2d(into, out, 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        return self.layers(z)


def build_sonnet(
    config: SonnetConfig, image_channels: int, encoder_channels: int, decoder_channels: int
) -> tuple[nn.Module, nn.Module]:
    """Build encoder and decoder; see `networks.build_network`."""
    sizes = config.width, config.residual_width, config.residual_layers, config.halvings
    encoder = nn.Sequential(
        Contraction(image_channels, *sizes), ReadOut(config.width, encoder_channels)
    )
    return encoder, Expansion(decoder_channels, image_channels, *sizes)
