"""Networks: images to encoder outputs, and quantized vectors to images."""

from typing import Annotated, assert_never

from pydantic import Field
from torch import nn

from imagetok.networks.conv import ConvConfig, ConvDecoder, ConvEncoder
from imagetok.networks.hierarchy import Hierarchy, VQVAE2Config
from imagetok.networks.kaokore import KaokoreNetConfig, build_kaokore
from imagetok.networks.pixels import PixelRange
from imagetok.networks.sonnet import SonnetConfig, build_sonnet
from imagetok.networks.sqvae import SQVAENetConfig, build_sqvae_net

FlatNetworkConfig = ConvConfig | SonnetConfig | SQVAENetConfig | KaokoreNetConfig
"""One grid of codes."""
NetworkConfig = Annotated[FlatNetworkConfig | VQVAE2Config, Field(discriminator="kind")]


def build_network(
    config: FlatNetworkConfig,
    image_channels: int,
    encoder_channels: int,
    decoder_channels: int,
    *,
    num_heads: int = 1,
    is_bounded: bool = True,
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder, freshly initialised.

    The encoder maps image_channels to encoder_channels, the decoder decoder_channels to
    image_channels; pixels are in the range `config.pixels` on both sides. num_heads: of the encoder
    where the network has heads. is_bounded: whether a network with a squashing function at its end
    keeps it; a likelihood that has one of its own (vMF) does without.
    """
    channels = image_channels, encoder_channels, decoder_channels
    match config:
        case ConvConfig():
            encoder = ConvEncoder(config, image_channels, encoder_channels)
            return encoder, ConvDecoder(config, decoder_channels, image_channels)
        case SonnetConfig():
            return build_sonnet(config, *channels)
        case SQVAENetConfig():
            return build_sqvae_net(config, *channels, num_heads=num_heads, is_bounded=is_bounded)
        case KaokoreNetConfig():
            return build_kaokore(config, *channels, is_bounded=is_bounded)
        case _:
            assert_never(config)


__all__ = [
    "ConvConfig",
    "ConvDecoder",
    "ConvEncoder",
    "FlatNetworkConfig",
    "Hierarchy",
    "KaokoreNetConfig",
    "NetworkConfig",
    "PixelRange",
    "SQVAENetConfig",
    "SonnetConfig",
    "VQVAE2Config",
    "build_network",
]
