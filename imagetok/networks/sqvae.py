"""The networks of the image experiments of SQ-VAE (Takida et al. 2022), as in the released code."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks.pixels import UNIT, PixelRange
from imagetok.networks.residual import SkipBlock, match_channels


class SQVAENetConfig(Section):
    """Network with batch norm, one code per 4 x 4 pixels (`net_64_label`: 8 x 8), final sigmoid.

    form: `net_28` has two strided convolutions and residual blocks; `net_32` also has a norm after
    the second convolution and another 3x3 convolution; `net_64` has no norm after this 3x3
    convolution, and one residual block less in the decoder; in `net_64_label`, for label maps, this
    convolution is a strided 4x4 one, too. In the paper the width is D.
    """

    kind: Literal["sqvae"] = "sqvae"
    form: Literal["net_28", "net_32", "net_64", "net_64_label"] = "net_32"
    """Which network of the released code, named by its image size there."""
    width: Annotated[int, Field(ge=2, le=8192)] = 64
    """Number of channels."""
    residual_layers: Annotated[int, Field(ge=1, le=64)] = 2
    """Number of residual blocks."""
    pixels: ClassVar[PixelRange] = UNIT
    any_size: ClassVar[bool] = True

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 8 if self.form == "net_64_label" else 4

    @property
    def inner_convolution(self) -> tuple[int, int]:
        """Kernel size and stride of the convolution next to the residual blocks."""
        return (4, 2) if self.form == "net_64_label" else (3, 1)


class SQVAEEncoder(nn.Module):
    """Encoder: (B, image_channels, H, W) -> (B, out_channels, h, w); h = H / downsampling.

    Each head is a residual block on a shared trunk, with an equal part of the output channels: one
    head for means, and a second one for variances.
    """

    def __init__(
        self, config: SQVAENetConfig, image_channels: int, out_channels: int, num_heads: int
    ):
        super().__init__()
        width = config.width
        layers: list[nn.Module] = [
            *_normed(nn.Conv2d(image_channels, width // 2, 4, stride=2, padding=1)),
            nn.Conv2d(width // 2, width, 4, stride=2, padding=1),
        ]
        if config.form != "net_28":
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.Conv2d(width, width, *config.inner_convolution, padding=1))
        if config.form == "net_32":
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [_residual(width) for _ in range(config.residual_layers - 1)]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(
            nn.Sequential(_residual(width), match_channels(width, out_channels // num_heads))
            for _ in range(num_heads)
        )
        _initialise(self)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        h = self.trunk(x)
        return torch.cat([head(h) for head in self.heads], dim=1)


class SQVAEDecoder(nn.Module):
    """Decoder: (B, in_channels, h, w) -> (B, image_channels, H, W); in (0, 1) if bounded."""

    def __init__(
        self, config: SQVAENetConfig, in_channels: int, image_channels: int, is_bounded: bool
    ):
        super().__init__()
        width = config.width
        blocks = config.residual_layers - config.form.startswith("net_64")
        layers = [match_channels(in_channels, width), *(_residual(width) for _ in range(blocks))]
        if config.form != "net_28":
            inner = nn.ConvTranspose2d(width, width, *config.inner_convolution, padding=1)
            layers += _normed(inner)
        layers += _normed(nn.ConvTranspose2d(width, width // 2, 4, stride=2, padding=1))
        layers.append(nn.ConvTranspose2d(width // 2, image_channels, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers, *([nn.Sigmoid()] if is_bounded else []))
        _initialise(self)

    def forward(self, z: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        return self.layers(z)


def build_sqvae_net(
    config: SQVAENetConfig,
    image_channels: int,
    encoder_channels: int,
    decoder_channels: int,
    *,
    num_heads: int,
    is_bounded: bool,
) -> tuple[nn.Module, nn.Module]:
    """Build encoder and decoder; see `networks.build_network`."""
    encoder = SQVAEEncoder(config, image_channels, encoder_channels, num_heads)
    return encoder, SQVAEDecoder(config, decoder_channels, image_channels, is_bounded)


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


def _residual(width: int) -> nn.Module:
    return SkipBlock(width, width, norms=(True, True))


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)  # biases keep PyTorch's default
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
