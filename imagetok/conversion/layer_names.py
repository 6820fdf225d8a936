"""The names that taming-transformers gives to the layers of the network `vqgan`."""

from collections.abc import Iterator

from torch import Tensor, nn

from imagetok.networks.vqgan import Attention, ResidualBlock, VQGANConfig

_INNER = {"shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
"""Names inside residual blocks and attention that differ; the others are the same."""


def encoder_names(config: VQGANConfig) -> Iterator[str | None]:
    """Names of the encoder's layers in order; None for a layer without weights."""
    last = len(config.multipliers) - 1
    yield "encoder.conv_in"
    for level in range(last + 1):
        yield from _level(config, f"encoder.down.{level}", level, config.blocks)
        if level < last:
            yield f"encoder.down.{level}.downsample.conv"
    yield from _middle(config, "encoder")
    yield from ("encoder.norm_out", None, "encoder.conv_out", "quant_conv")


def decoder_names(config: VQGANConfig) -> Iterator[str | None]:
    """Names of the decoder's layers in order; `up.0` is the finest level."""
    yield from ("post_quant_conv", "decoder.conv_in")
    yield from _middle(config, "decoder")
    for level in reversed(range(len(config.multipliers))):
        yield from _level(config, f"decoder.up.{level}", level, config.blocks + 1)
        if level:
            yield from (None, f"decoder.up.{level}.upsample.conv")
    yield from ("decoder.norm_out", None, "decoder.conv_out")


def tensor_names(network: nn.Module, names: Iterator[str | None]) -> dict[str, str]:
    """Return the family's name of every tensor of an encoder or decoder, by our name.

    names: those of its layers.
    """
    found: dict[str, str] = {}
    layers: nn.ModuleList = network.get_submodule("layers")  # pyright: ignore[reportAssignmentType]
    for index, (layer, name) in enumerate(zip(layers, names, strict=True)):
        has_parts = isinstance(layer, ResidualBlock | Attention)
        for key in layer.state_dict():
            first, _, rest = key.partition(".")
            theirs = f"{_INNER.get(first, first)}.{rest}" if has_parts else key
            found[f"layers.{index}.{key}"] = f"{name}.{theirs}"
    return found


def is_same_shape(ours: Tensor, theirs: tuple[int, ...]) -> bool:
    """Whether their tensor is ours, which may be a linear layer where theirs is a 1x1 convolution.

    Theirs may also be linear where ours is a convolution.
    """
    shape = tuple(ours.shape)
    longer, shorter = sorted((shape, theirs), key=len, reverse=True)
    return longer == shorter or (len(shorter) == 2 and longer == (*shorter, 1, 1))


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
