"""The VQ-VAE network of the Kaokore experiments: VQ_CVAE of nadavbh12/VQ-VAE."""

from typing import ClassVar, Literal

from torch import nn

from imagetok.config import Section
from imagetok.networks.pixels import SYMMETRIC, PixelRange
from imagetok.networks.residual import SkipBlock, Width, match_channels


class KaokoreNetConfig(Section):
    """Network with batch norm, one code per 4 x 4 pixels, and a final tanh.

    In the original, the width is D, and the squared error is measured in [-1, 1]. Here it is
    measured in [0, 1], so published loss weights are four times as strong.
    """

    kind: Literal["kaokore"] = "kaokore"
    width: Width = 128
    """Number of channels."""
    init: Literal["normal", "released"] = "normal"
    """`released`, as in the public code: convolution weights N(0, 0.02^2) and biases 0; transposed
    convolutions keep PyTorch's start. `normal`: weights of both N(0, 0.02^2), biases PyTorch's."""
    pixels: ClassVar[PixelRange] = SYMMETRIC
    any_size: ClassVar[bool] = True
    downsampling: ClassVar[int] = 4
    added: ClassVar[tuple[str, ...]] = ("init",)


def build_kaokore(
    config: KaokoreNetConfig,
    image_channels: int,
    encoder_channels: int,
    decoder_channels: int,
    *,
    is_bounded: bool,
) -> tuple[nn.Module, nn.Module]:
    """Build encoder and decoder; see `networks.build_network`."""
    width = config.width
    last_norm = nn.BatchNorm2d(width)
    encoder = nn.Sequential(
        nn.Conv2d(image_channels, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        SkipBlock(width, width, norms=(True, False)),
        nn.BatchNorm2d(width),
        SkipBlock(width, width, norms=(True, False)),
        last_norm,
        match_channels(width, encoder_channels),
    )
    decoder = nn.Sequential(
        match_channels(decoder_channels, width),
        SkipBlock(width, width),
        nn.BatchNorm2d(width),
        SkipBlock(width, width),
        nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, image_channels, 4, stride=2, padding=1),
        *([nn.Tanh()] if is_bounded else []),
    )
    _initialise(encoder, config)
    _initialise(decoder, config)
    nn.init.constant_(last_norm.weight, 1 / 40)  # features initially have the scale of the codes
    return encoder, decoder


def _initialise(network: nn.Module, config: KaokoreNetConfig) -> None:
    is_released = config.init == "released"
    drawn = nn.Conv2d if is_released else (nn.Conv2d, nn.ConvTranspose2d)
    for module in network.modules():
        if isinstance(module, drawn):
            nn.init.normal_(module.weight, std=0.02)
            if is_released and module.bias is not None:
                nn.init.zeros_(module.bias)
