"""The network of VQGAN (Esser et al. 2021), which LlamaGen, Janus, aMUSEd and others share.

Residual blocks with group norm and swish, single-head attention at chosen resolutions and in the
middle, and a 1x1 convolution on either side of the quantizer. Layers and shapes are those of
taming-transformers.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NoReturn

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imagetok.config import Section
from imagetok.errors import ArtifactError
from imagetok.networks.pixels import SYMMETRIC, UNIT, PixelRange
from imagetok.networks.residual import ReadOut

_EPSILON = 1e-6  # of the group norms
_FEW_POSITIONS = 1024

Multiplier = Annotated[int, Field(ge=1, le=64)]


class VQGANConfig(Section):
    """Levels of residual blocks; the resolution is halved between two of them.

    Pixels are in [-1, 1] inside the network unless `pixel_range` says otherwise, but errors are
    measured for pixels in [0, 1]: loss weights published for a squared error in [-1, 1] are four
    times as strong here.
    """

    kind: Literal["vqgan"] = "vqgan"
    width: Annotated[int, Field(ge=1, le=4096)] = 128
    """Channels that `multipliers` multiply."""
    multipliers: Annotated[tuple[Multiplier, ...], Field(min_length=1, max_length=8)] = (
        *(1, 1, 2, 2, 4),
    )
    """Channels of each level, fine to coarse, relative to `width`; n levels have one code per
    2^(n-1) x 2^(n-1) pixels."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    attention: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Levels whose blocks are followed by attention, as pixels per position along each side: 1, 2,
    4, ...; null: the coarsest level alone."""
    middle_attention: bool = True
    """Whether there is attention between the two blocks at the coarsest resolution."""
    latent_channels: Annotated[int, Field(ge=1, le=8192)] = 256
    """Channels between the network and the 1x1 convolutions at the quantizer."""
    norm_groups: Annotated[int, Field(ge=1, le=1024)] = 32
    """Groups of each group norm."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability inside residual blocks."""
    pixel_range: Literal["symmetric", "unit"] = "symmetric"
    """Range of pixels inside the network: `symmetric` is [-1, 1]; `unit` is [0, 1], aMUSEd's."""
    encode_only: bool = False
    """Whether there is no decoder, because none was published: images have codes, but codes do not
    become images. Such a network is converted, not trained."""
    any_size: ClassVar[bool] = True
    added: ClassVar[tuple[str, ...]] = ("pixel_range", "encode_only")

    @model_validator(mode="after")
    def _check(self) -> "VQGANConfig":
        for multiplier in self.multipliers:
            if self.width * multiplier % self.norm_groups:
                raise ValueError(
                    f"norm_groups: expected a divisor of width times each of multipliers, found "
                    f"{self.norm_groups} with {self.width} x {multiplier}; use a width that is a "
                    f"multiple of {self.norm_groups}, or fewer groups"
                )
        steps = [2**level for level in range(len(self.multipliers))]
        for step in self.attention or ():
            if step not in steps:
                raise ValueError(
                    f"attention: expected pixels per position at a level, "
                    f"{', '.join(map(str, steps))}, found {step}"
                )
        return self

    @property
    def pixels(self) -> PixelRange:
        """The values of black and white inside the network."""
        return SYMMETRIC if self.pixel_range == "symmetric" else UNIT

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.multipliers) - 1)

    def has_attention(self, level: int) -> bool:
        """Return whether the blocks of a level are followed by attention."""
        steps = (self.downsampling,) if self.attention is None else self.attention
        return 2**level in steps


class ResidualBlock(nn.Module):
    """x + [norm, swish, 3x3 convolution] twice; x is 1x1 convolved where the channels change."""

    def __init__(self, config: VQGANConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = _norm(config, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(config, out_channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        inner = self.conv1(functional.silu(self.norm1(x)))
        inner = self.conv2(self.dropout(functional.silu(self.norm2(inner))))
        return self.shortcut(x) + inner


class Attention(nn.Module):
    """x + self-attention of one head over all positions."""

    def __init__(self, config: VQGANConfig, channels: int):
        super().__init__()
        self.norm = _norm(config, channels)
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        rows = self.norm(x).movedim(1, -1).flatten(1, 2)
        seen = _attended(self.query(rows), self.key(rows), self.value(rows))
        return x + self.out(seen).unflatten(1, x.shape[2:]).movedim(-1, 1)


def _attended(
    query: Float[Tensor, "B N C"], key: Float[Tensor, "B N C"], value: Float[Tensor, "B N C"]
) -> Float[Tensor, "B N C"]:
    """Return the mean of the values by softmax(query . key / sqrt(C)).

    In training on a CPU, matrix products are faster than torch's fused kernel, in bfloat16 twice.
    Their N x N weights are stored, so this is for few positions.
    """
    positions, channels = query.shape[1:]
    is_training_on_cpu = torch.is_grad_enabled() and query.device.type == "cpu"
    if is_training_on_cpu and positions <= _FEW_POSITIONS:
        return (query * channels**-0.5 @ key.transpose(1, 2)).softmax(dim=2) @ value
    query, key, value = query[:, None], key[:, None], value[:, None]
    return functional.scaled_dot_product_attention(query, key, value)[:, 0]


class Halving(nn.Conv2d):
    """A 3x3 convolution with stride 2, padded on the right and at the bottom alone."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        return super().forward(functional.pad(input, (0, 1, 0, 1)))


class Doubling(nn.Conv2d):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution, as one transposed convolution.

    Each output pixel sees 2 x 2 different input pixels, so four products do the work of nine, and
    the upsampled activations are never stored.
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        kernel = _transposed(_transposed(self.weight, 2), 3).transpose(0, 1)
        return functional.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


def _transposed(kernel: Tensor, dim: int) -> Tensor:
    """Return the 4 taps of a transposed convolution for 3 taps on pixels repeated twice."""
    first, second, third = kernel.unbind(dim)
    return torch.stack([third, second + third, first + second, first], dim)


class GroupNorm(nn.GroupNorm):
    """Group norm, trained in the precision of its weights on a CPU, as autocast does on a GPU.

    In bfloat16, the gradient takes several times as long there. A group may have a single value, as
    in an image of one position, which torch's own layer refuses; its norm is the bias.
    """

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if torch.is_grad_enabled() and input.device.type == "cpu":
            return self._normed(input.to(self.weight.dtype)).to(input.dtype)
        return self._normed(input)

    def _normed(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class Layers(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: Iterator[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._recomputes = False

    def recompute_activations(self) -> None:
        """Compute activations inside blocks again in backward, which saves memory in training."""
        self._recomputes = True

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        for layer in self.layers:
            is_large = isinstance(layer, ResidualBlock | Attention)
            if self._recomputes and self.training and is_large:
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


class VQGANEncoder(Layers):
    """Encoder: (B, image_channels, H, W) -> (B, out_channels, h, w); h = H / downsampling."""

    def __init__(self, config: VQGANConfig, image_channels: int, out_channels: int):
        super().__init__(_encoder_layers(config, image_channels, out_channels))


class VQGANDecoder(Layers):
    """Decoder: (B, in_channels, h, w) -> (B, image_channels, h * downsampling, w * downsampling).

    Its output is linear.
    """

    def __init__(self, config: VQGANConfig, in_channels: int, image_channels: int):
        super().__init__(_decoder_layers(config, in_channels, image_channels))


class NoDecoder(nn.Module):
    """Stands for the decoder of a network that only encodes."""

    def forward(self, z_q: Float[Tensor, "B D h w"]) -> NoReturn:
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raise ArtifactError, which says why there are no images."""
        raise ArtifactError(
            "this tokenizer only encodes: its class has no decoder, so its codes cannot be made "
            "into images; where the authors' own checkpoint has one, convert that, or use another "
            "tokenizer to decode, reconstruct, evaluate or sample"
        )


def _encoder_layers(
    config: VQGANConfig, image_channels: int, out_channels: int
) -> Iterator[nn.Module]:
    channels = config.width
    yield nn.Conv2d(image_channels, channels, 3, padding=1)
    for level, multiplier in enumerate(config.multipliers):
        yield from _level(config, level, channels, config.blocks)
        channels = config.width * multiplier
        if level < len(config.multipliers) - 1:
            yield Halving(channels)
    yield from _middle(config, channels)
    yield from (_norm(config, channels), nn.SiLU())
    yield nn.Conv2d(channels, config.latent_channels, 3, padding=1)
    yield ReadOut(config.latent_channels, out_channels)


def _decoder_layers(
    config: VQGANConfig, in_channels: int, image_channels: int
) -> Iterator[nn.Module]:
    channels = config.width * config.multipliers[-1]
    yield nn.Conv2d(in_channels, config.latent_channels, 1)
    yield nn.Conv2d(config.latent_channels, channels, 3, padding=1)
    yield from _middle(config, channels)
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        yield from _level(config, level, channels, config.blocks + 1)
        channels = config.width * multiplier
        if level:
            yield nn.Identity()  # an upsampling once; it keeps the names of weights
            yield Doubling(channels)
    yield from (_norm(config, channels), nn.SiLU())
    yield nn.Conv2d(channels, image_channels, 3, padding=1)


def _level(
    config: VQGANConfig, level: int, in_channels: int, blocks: int
) -> Iterator[ResidualBlock | Attention]:
    channels = config.width * config.multipliers[level]
    for block in range(blocks):
        yield ResidualBlock(config, channels if block else in_channels, channels)
        if config.has_attention(level):
            yield Attention(config, channels)


def _middle(config: VQGANConfig, channels: int) -> Iterator[ResidualBlock | Attention]:
    yield ResidualBlock(config, channels, channels)
    if config.middle_attention:
        yield Attention(config, channels)
    yield ResidualBlock(config, channels, channels)


def _norm(config: VQGANConfig, channels: int) -> GroupNorm:
    return GroupNorm(config.norm_groups, channels, eps=_EPSILON)
