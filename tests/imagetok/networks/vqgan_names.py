"""Names that the family of taming-transformers gives to the layers of the network `vqgan`."""

from collections.abc import Iterator

from torch import Tensor, nn

from imagetok.networks import VQGANConfig
from imagetok.networks.vqgan import Attention, ResidualBlock

INNER = {"shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
"""Names inside residual blocks and attention that differ; the others are the same."""


def encoder_names(config: VQGANConfig) -> Iterator[str | None]:
    """Names of the encoder's layers in order; None for one without weights."""
    last = len(config.multipliers) - 1
    yield "encoder.conv_in"
    for level in range(last + 1):
        yield from _level(config, f"encoder.down.{level}", level, config.blocks)
        if level < last:
            yield f"encoder.down.{level}.downsample.conv"
    yield from _middle(config, "encoder")
    yield from ("encoder.norm_out", None, "encoder.conv_out", "quant_conv")


def decoder_names(config: VQGANConfig, coarse_first: bool) -> Iterator[str | None]:
    """Names of the decoder's layers. coarse_first: whether up.0 is the coarsest level."""
    last = len(config.multipliers) - 1
    yield from ("post_quant_conv", "decoder.conv_in")
    yield from _middle(config, "decoder")
    for level in reversed(range(last + 1)):
        up = f"decoder.up.{last - level if coarse_first else level}"
        yield from _level(config, up, level, config.blocks + 1)
        if level:
            yield from (None, f"{up}.upsample.conv")
    yield from ("decoder.norm_out", None, "decoder.conv_out")


def _level(config: VQGANConfig, place: str, level: int, blocks: int) -> Iterator[str]:
    for block in range(blocks):
        yield f"{place}.block.{block}"
        if config.has_attention(level):
            yield f"{place}.attn.{block}"


def _middle(config: VQGANConfig, place: str) -> Iterator[str]:
    yield f"{place}.mid.block_1"
    if config.middle_attention:
        yield f"{place}.mid.attn_1"
    yield f"{place}.mid.block_2"


def renamed(network: nn.Module, names: Iterator[str | None]) -> dict[str, Tensor]:
    """The weights of an encoder or decoder by the family's names."""
    found: dict[str, Tensor] = {}
    for layer, name in zip(network.layers, names, strict=True):
        has_parts = isinstance(layer, ResidualBlock | Attention)
        assert (name is None) == (not list(layer.parameters()))
        for key, tensor in layer.state_dict().items():
            first, _, rest = key.partition(".")
            inner = f"{INNER.get(first, first)}.{rest}" if has_parts else key
            is_projection = isinstance(layer, Attention) and tensor.ndim == 2
            found[f"{name}.{inner}"] = tensor[..., None, None] if is_projection else tensor
    return found
