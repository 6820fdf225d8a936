"""Networks: encoders of images, and decoders of quantized vectors."""

from imagetok.networks.base import NetworkSection, NetworkSpec
from imagetok.networks.build import FlatNetworkConfig, NetworkConfig, build_network
from imagetok.networks.conv import ConvConfig, ConvDecoder, ConvEncoder
from imagetok.networks.hierarchy import Hierarchy, VQVAE2Config
from imagetok.networks.kaokore import KaokoreNetConfig
from imagetok.networks.pixels import PixelRange
from imagetok.networks.sonnet import SonnetConfig
from imagetok.networks.sqvae import SQVAENetConfig
from imagetok.networks.vqgan import VQGANConfig

__all__ = [
    "ConvConfig",
    "ConvDecoder",
    "ConvEncoder",
    "FlatNetworkConfig",
    "Hierarchy",
    "KaokoreNetConfig",
    "NetworkConfig",
    "NetworkSection",
    "NetworkSpec",
    "PixelRange",
    "SQVAENetConfig",
    "SonnetConfig",
    "VQGANConfig",
    "VQVAE2Config",
    "build_network",
]
