"""The network of Emu3's vision tokenizer (Wang et al. 2024), held by the class of transformers.

It was made for videos: features of an image are those of a still clip, and its reconstruction is
the first picture of the decoded clip, as in transformers' `Emu3VQVAE`.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.errors import ConfigError
from imagetok.networks.pixels import UNIT, PixelRange

if TYPE_CHECKING:
    from transformers import Emu3VQVAE

Channels = Annotated[tuple[float, float, float], Field()]


class Emu3Config(Section):
    """Levels of residual blocks, convolutions over time, and norms that see the codes."""

    kind: Literal["emu3"] = "emu3"
    width: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] = 256
    """Channels that `multipliers` multiply."""
    multipliers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=8)
    ] = (1, 2, 2, 4)
    """Channels of each level, fine to coarse, relative to `width`."""
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    attention: tuple[Annotated[int, Field(ge=1)], ...] = (8,)
    """Levels whose blocks are followed by attention, as pixels per position along each side."""
    latent_channels: Annotated[int, Field(ge=1, le=8192)] = 4
    """Channels between the network and the convolutions at the quantizer."""
    frames: Literal[1, 2, 4, 8, 16] = 4
    """Pictures of the still clip that an image becomes, which have one grid of codes."""
    heads: Annotated[int, Field(ge=1, le=64)] = 1
    """Heads of the attention."""
    mean: Channels = (0.48145466, 0.4578275, 0.40821073)
    """Red, green and blue that the network sees as 0, for pixels in [0, 1]."""
    std: Channels = (0.26862954, 0.26130258, 0.27577711)
    """Distance from `mean` that the network sees as 1."""
    pixels: ClassVar[PixelRange] = UNIT
    any_size: ClassVar[bool] = True

    @model_validator(mode="after")
    def _check(self) -> "Emu3Config":
        for step in self.attention:
            level = step.bit_length() - 1
            is_level = step == 2**level and level < len(self.multipliers)
            if not is_level or self.multipliers[level] != self.multipliers[-1]:
                raise ValueError(
                    "attention: expected pixels per position at levels with the channels of the "
                    f"coarsest, found {step}"
                )
        return self

    @property
    def downsampling(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.multipliers) - 1)


class Emu3Encoder(nn.Module):
    """Encoder: pixels (B, 3, H, W) in [0, 1] -> (B, D, h, w); h = H / downsampling."""

    def __init__(self, config: Emu3Config, model: "Emu3VQVAE"):
        super().__init__()
        self.frames, self.scale = config.frames, (config.mean, config.std)
        self.encoder, self.quant_conv = model.encoder, model.quant_conv

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        mean, std = _scale(self.scale, x)
        clip = ((x - mean) / std)[:, None].expand(-1, self.frames, -1, -1, -1)
        features = self.encoder(clip).movedim(1, 2)  # (B, C, 1, h, w)
        return self.quant_conv(features)[:, :, 0]


class Emu3Decoder(nn.Module):
    """Decoder: (B, D, h, w) -> pixels (B, 3, H, W) on the scale of [0, 1]; its output is linear."""

    def __init__(self, config: Emu3Config, model: "Emu3VQVAE"):
        super().__init__()
        self.frames, self.scale = config.frames, (config.mean, config.std)
        self.decoder, self.post_quant_conv = model.decoder, model.post_quant_conv

    def forward(self, z_q: Float[Tensor, "B D h w"]) -> Float[Tensor, "B 3 H W"]:
        codes = z_q[:, None]  # (B, 1, D, h, w)
        clip = self.decoder(self.post_quant_conv(codes.movedim(1, 2)).movedim(1, 2), codes)
        mean, std = _scale(self.scale, clip)
        return clip.unflatten(0, (-1, self.frames))[:, 0] * std + mean


def build_emu3(
    config: Emu3Config, image_channels: int, encoder_channels: int, decoder_channels: int
) -> tuple[Emu3Encoder, Emu3Decoder]:
    """Build a newly initialised encoder and decoder."""
    from transformers import Emu3VQVAE, Emu3VQVAEConfig

    if image_channels != 3 or encoder_channels != decoder_channels:
        raise ConfigError(
            "network 'emu3': expected RGB images and a quantizer that keeps the number of "
            f"channels, found {image_channels} image channels, and {encoder_channels} channels "
            f"before and {decoder_channels} after the quantizer"
        )
    model = Emu3VQVAE(
        Emu3VQVAEConfig(
            codebook_size=1,
            embed_dim=encoder_channels,
            latent_channels=config.latent_channels,
            temporal_downsample_factor=config.frames,
            base_channels=config.width,
            channel_multiplier=list(config.multipliers),
            num_res_blocks=config.blocks,
            attn_resolutions=[step.bit_length() - 1 for step in config.attention],
            hidden_size=config.width * config.multipliers[-1],
            num_attention_heads=config.heads,
        )
    )
    return Emu3Encoder(config, model).train(), Emu3Decoder(config, model).train()


def _scale(
    scale: tuple[tuple[float, ...], tuple[float, ...]], images: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the channels, for (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in scale)
    return mean, std
