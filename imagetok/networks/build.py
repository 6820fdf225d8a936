"""Building encoder and decoder from a config section, for included and registered networks."""

from typing import Annotated, assert_never

from torch import nn

from imagetok.errors import ConfigError
from imagetok.networks.base import NetworkSection, NetworkSpec
from imagetok.networks.conv import ConvConfig, ConvDecoder, ConvEncoder
from imagetok.networks.emu3 import Emu3Config, build_emu3
from imagetok.networks.hierarchy import VQVAE2Config
from imagetok.networks.kaokore import KaokoreNetConfig, build_kaokore
from imagetok.networks.probe import check_shapes, downsampling_of
from imagetok.networks.sonnet import SonnetConfig, build_sonnet
from imagetok.networks.sqvae import SQVAENetConfig, build_sqvae_net
from imagetok.networks.vqgan import NoDecoder, VQGANConfig, VQGANDecoder, VQGANEncoder
from imagetok.plugins.sections import (
    OrRegistered,
    build_registered,
    described,
    registration_of,
)

FlatNetworkConfig = (
    ConvConfig
    | SonnetConfig
    | SQVAENetConfig
    | KaokoreNetConfig
    | VQGANConfig
    | Emu3Config
    | NetworkSection
)
"""The section of a network with one grid of codes."""
NetworkConfig = Annotated[FlatNetworkConfig | VQVAE2Config, OrRegistered(NetworkSection)]
"""The section of any network, included or registered."""


def build_network(
    config: FlatNetworkConfig,
    image_channels: int,
    encoder_channels: int,
    decoder_channels: int,
    *,
    num_heads: int = 1,
    is_bounded: bool = True,
    size: tuple[int, int] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Build a newly initialised encoder and decoder.

    The encoder maps image_channels to encoder_channels, the decoder decoder_channels to
    image_channels; pixels are in the range `config.pixels` on both sides. num_heads: number of
    heads of the encoder, for networks with heads. is_bounded: whether the decoder keeps its final
    nonlinearity; it is removed for a likelihood with its own (vMF). size: (H, W) of the images, on
    which a registered network is run once; ConfigError if it gives other shapes than it has to.
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
        case VQGANConfig():
            encoder = VQGANEncoder(config, image_channels, encoder_channels)
            if config.encode_only:
                return encoder, NoDecoder()
            return encoder, VQGANDecoder(config, decoder_channels, image_channels)
        case Emu3Config():
            return build_emu3(config, *channels)
        case NetworkSection():
            return _build_registered(config, NetworkSpec(*channels, num_heads, is_bounded), size)
        case _:
            assert_never(config)


def downsampling(config: FlatNetworkConfig) -> int:
    """Return the pixels per code along each side; ConfigError for a registered section's fault."""
    if isinstance(config, NetworkSection):
        return downsampling_of(config, described(registration_of(config)))
    return config.downsampling


def _build_registered(
    config: NetworkSection, spec: NetworkSpec, size: tuple[int, int] | None
) -> tuple[nn.Module, nn.Module]:
    factor = downsampling(config)
    pair = build_registered(config, tuple, config, spec)
    if len(pair) != 2 or not all(isinstance(module, nn.Module) for module in pair):
        found = ", ".join(type(module).__qualname__ for module in pair)
        raise ConfigError(
            f"network {config.kind!r}: expected its builder to make two torch modules, an encoder "
            f"and a decoder, found ({found})"
        )
    encoder, decoder = pair
    if size is not None:
        what = described(registration_of(config))
        check_shapes((encoder, decoder), spec, size, factor, what)
    return encoder, decoder
