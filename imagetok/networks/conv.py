"""The convolutional encoder and decoder of dVAE and EdVAE (EdVAE paper, App. C, Table C.5).

Where paper and released code differ, this follows the code: a ReLU before the last 1x1 convolution
of the encoder, no padding of 1x1 convolutions, residual branches scaled by 1 / (groups * blocks)^2.
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.networks.pixels import CENTRED, PixelRange


class ConvConfig(Section):
    """Residual groups at widths n, 2n, 4n, ..., with a factor 2 in resolution between groups."""

    kind: Literal["conv"] = "conv"
    width: Annotated[int, Field(ge=4, le=8192)] = 128
    """Channels of the first group; each further group has twice as many."""
    groups: Annotated[int, Field(ge=1, le=6)] = 3
    """Groups of residual blocks; between two of them the resolution is halved."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual blocks of a group."""
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3
    """Kernel size of the first convolution."""
    residual_gain: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Factor of the residual branches; null: the paper's 1 / (groups * blocks)^2."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the inner activations."""
    init: Literal["normal", "torch"] = "normal"
    """`normal`: convolution weights N(0, 0.02^2), the paper's; `torch`: PyTorch's own."""
    pixels: ClassVar[PixelRange] = CENTRED
    any_size: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check(self) -> "ConvConfig":
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4 (found {self.width})")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd (found {self.kernel_size})")
        return self

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (self.groups - 1)

    @property
    def gain(self) -> float:
        """Factor of the residual branches."""
        return self.residual_gain or 1 / (self.groups * self.blocks) ** 2


class ResidualBlock(nn.Module):
    """Residual block: identity + gain * branch; the identity is 1x1 convolved if channels differ.

    kernel_sizes: kernel sizes of the four convolutions of the branch, each after a ReLU; the number
    of inner channels is a quarter of out_channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: tuple[int, int, int, int],
        gain: float,
        dropout: float,
    ):
        super().__init__()
        inner = out_channels // 4
        widths = [in_channels, inner, inner, inner, out_channels]
        layers: list[nn.Module] = []
        for i, size in enumerate(kernel_sizes):
            layers += [nn.ReLU(), nn.Conv2d(widths[i], widths[i + 1], size, padding=size // 2)]
        if dropout:
            layers.insert(-1, nn.Dropout(dropout))
        self.branch = nn.Sequential(*layers)
        self.identity = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )
        self.gain = gain

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return torch.add(self.identity(x), self.branch(x), alpha=self.gain)


class ConvEncoder(nn.Module):
    """Encoder: (B, image_channels, H, W) -> (B, out_channels, h, w); h = H / downsampling."""

    def __init__(self, config: ConvConfig, image_channels: int, out_channels: int):
        super().__init__()
        size, width = config.kernel_size, config.width
        layers: list[nn.Module] = [nn.Conv2d(image_channels, width, size, padding=size // 2)]
        for group in range(config.groups):
            out = width * 2**group
            for block in range(config.blocks):
                into = width * 2 ** max(group - 1, 0) if block == 0 else out
                layers.append(ResidualBlock(into, out, (3, 3, 3, 1), config.gain, config.dropout))
            if group < config.groups - 1:
                layers.append(nn.MaxPool2d(2))
        layers += [nn.ReLU(), nn.Conv2d(width * 2 ** (config.groups - 1), out_channels, 1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self, config)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        *body, last = self.layers
        for layer in body:
            x = layer(x)
        with torch.autocast(x.device.type, enabled=False):  # half precision logits would tie
            return last(x.to(cast(nn.Conv2d, last).weight.dtype))


class ConvDecoder(nn.Module):
    """Decoder: (B, in_channels, h, w) -> (B, image_channels, h * downsampling, w * downsampling).

    Its output is linear.
    """

    def __init__(self, config: ConvConfig, in_channels: int, image_channels: int):
        super().__init__()
        layers: list[nn.Module] = []
        into = in_channels
        for group in reversed(range(config.groups)):
            out = config.width * 2**group
            for _ in range(config.blocks):
                layers.append(ResidualBlock(into, out, (1, 3, 3, 3), config.gain, config.dropout))
                into = out
            if group > 0:
                layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
        layers += [nn.ReLU(), nn.Conv2d(into, image_channels, 1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self, config)

    def forward(self, z: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        return self.layers(z)


def _initialise(network: nn.Module, config: ConvConfig) -> None:
    if config.init == "torch":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)  # biases keep PyTorch's default
