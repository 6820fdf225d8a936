"""Networks: images to encoder outputs, and quantized vectors to images."""

from torch import nn

from imagetok.networks.conv import ConvConfig, ConvDecoder, ConvEncoder

NetworkConfig = ConvConfig


def build_network(
    config: NetworkConfig, image_channels: int, encoder_channels: int, decoder_channels: int
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder, freshly initialised.

    The encoder maps image_channels to encoder_channels, the decoder decoder_channels to
    image_channels.
    """
    encoder = ConvEncoder(config, image_channels, encoder_channels)
    return encoder, ConvDecoder(config, decoder_channels, image_channels)


__all__ = ["ConvConfig", "ConvDecoder", "ConvEncoder", "NetworkConfig", "build_network"]
