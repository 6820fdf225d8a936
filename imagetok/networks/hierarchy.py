"""The VQ-VAE-2 network (Razavi et al. 2019): one grid of codes per level, coarse to fine.

Strided convolutions compute features of every level from the image. Codes are then determined from
the coarsest level down, each from the features of its level and the quantized vectors of the
coarser ones. Layers and sizes are those of the public PyTorch code (rosinality/vq-vae-2-pytorch),
which has two levels. With more levels, each is conditioned on all coarser ones, upsampled to its
resolution.
"""

from itertools import accumulate
from typing import Annotated, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks.pixels import SYMMETRIC, PixelRange
from imagetok.networks.residual import ReadOut, Width
from imagetok.networks.sonnet import Contraction, Expansion


class VQVAE2Config(Section):
    """The finest level has one code per 4 x 4 pixels; each coarser level has half the resolution.

    Pixels are in [-1, 1] inside the network, but errors are measured for pixels in [0, 1]: loss
    weights published for a squared error in [-1, 1] are four times as strong here.
    """

    kind: Literal["vqvae2"] = "vqvae2"
    width: Width = 128
    """Number of channels."""
    residual_width: Annotated[int, Field(ge=1, le=8192)] = 32
    """Channels inside a residual layer."""
    residual_layers: Annotated[int, Field(ge=0, le=64)] = 2
    """Number of residual layers of each stack."""
    pixels: ClassVar[PixelRange] = SYMMETRIC
    any_size: ClassVar[bool] = True

    def downsamplings(self, num_levels: int) -> tuple[int, ...]:
        """Pixels per code along each side, per level, coarse to fine."""
        return tuple(4 * 2**i for i in reversed(range(num_levels)))


class Hierarchy(nn.Module):
    """Encoder and decoder of several levels, without the quantizers.

    encoder_channels, decoder_channels: input and output channels of each level's quantizer, coarse
    to fine.
    """

    def __init__(
        self,
        config: VQVAE2Config,
        image_channels: int,
        encoder_channels: tuple[int, ...],
        decoder_channels: tuple[int, ...],
    ):
        super().__init__()
        sizes = config.width, config.residual_width, config.residual_layers
        num_levels = len(encoder_channels)
        finer = range(1, num_levels)
        seen = list(accumulate(decoder_channels))
        # The finest level reads the image; every other level the features of the next finer one.
        self.encoders = nn.ModuleList(
            [Contraction(config.width, *sizes, halvings=1) for _ in finer]
            + [Contraction(image_channels, *sizes, halvings=2)]
        )
        self.conditions = nn.ModuleList(
            Expansion(seen[level - 1], config.width // 2, *sizes, halvings=1) for level in finer
        )
        self.read_outs = nn.ModuleList(
            ReadOut(config.width + (config.width // 2 if level else 0), channels)
            for level, channels in enumerate(encoder_channels)
        )
        self.doublings = nn.ModuleList(
            nn.ConvTranspose2d(seen[level - 1], seen[level - 1], 4, stride=2, padding=1)
            for level in finer
        )
        self.decoder = Expansion(seen[-1], image_channels, *sizes, halvings=2)

    def features(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return features (B, width, h, w) of every level, coarse to fine."""
        climbed = [images]
        for encoder in reversed(self.encoders):
            climbed.append(cast(Tensor, encoder(climbed[-1])))
        return climbed[:0:-1]

    def read_out(
        self, level: int, features: Float[Tensor, "B D h w"], context: Tensor | None
    ) -> Float[Tensor, "B E h w"]:
        """Return the input of a level's quantizer.

        context: the context of the coarser levels, from `descend`; None at the coarsest level.
        """
        if context is not None:
            condition: Tensor = self.conditions[level - 1](context)
            features = torch.cat([condition, features], dim=1)
        return self.read_outs[level](features)

    def descend(
        self, level: int, context: Tensor | None, z_q: Float[Tensor, "B D h w"]
    ) -> Float[Tensor, "B E h w"]:
        """Return the context of the next level: all quantized vectors so far, on this grid."""
        if context is None:
            return z_q
        return torch.cat([self.doublings[level - 1](context), z_q], dim=1)

    def decode(self, context: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        """Decode the context of the finest level to images in the pixel range of the network."""
        return self.decoder(context)
