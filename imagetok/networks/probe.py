"""One run of a registered encoder and decoder when they are built, against their `NetworkSpec`."""

import copy

import torch
from torch import Tensor, nn

from imagetok.errors import ConfigError
from imagetok.networks.base import NetworkSection, NetworkSpec
from imagetok.plugins.probing import is_on_cpu, running, spare, untouched_randomness
from imagetok.suggestions import shown

_BATCH = 2  # batch normalisation of one image of one position fails


def downsampling_of(section: NetworkSection, what: str) -> int:
    """Return the downsampling of a registered network; ConfigError if it is not an int >= 1."""
    with running(what, "downsampling of its section"):
        found: object = section.downsampling
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ConfigError(
            f"{what}: downsampling: expected an int >= 1, pixels per code along each side, found "
            f"{shown(found)}"
        )
    return found


def check_shapes(
    pair: tuple[nn.Module, nn.Module],
    spec: NetworkSpec,
    size: tuple[int, int],
    factor: int,
    what: str,
) -> None:
    """Raise ConfigError unless encoder and decoder give the shapes that `spec` asks of them.

    pair: encoder and decoder. size: (H, W) of the images. factor: downsampling. what: the part,
    for messages. Copies are run on the meta device, or, where that fails, on the CPU; their weights
    and the global random state stay as they are.
    """
    grid = size[0] // factor, size[1] // factor
    images, features = (_BATCH, spec.image_channels, *size), (_BATCH, spec.encoder_channels, *grid)
    decoded = (_BATCH, spec.decoder_channels, *grid)
    runs = (("encoder", images, features), ("decoder", decoded, images))
    for (name, given, expected), module in zip(runs, pair, strict=True):
        with untouched_randomness(), torch.no_grad():
            out = _run(module, given, f"{name} on a tensor of shape {given}", what)
        if out is None:
            continue
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__qualname__
        if found != expected:
            raise ConfigError(
                f"{what}: {name}: expected it to map a tensor of shape {given} to {expected}, "
                f"found {found}"
            )


def _run(module: nn.Module, shape: tuple[int, ...], step: str, what: str) -> object:
    """Return what a copy of the module gives; None if it runs neither on meta nor on the CPU."""
    try:
        with torch.device("meta"):
            return _without_values(module)(torch.empty(shape))
    except Exception:  # not every operation runs without values
        if not is_on_cpu(module):
            return None
    with running(what, step):
        return spare(module)(torch.zeros(shape))


def _without_values(module: nn.Module) -> nn.Module:
    """Return a copy of the module on the meta device, for which no weights are copied."""
    memo: dict[int, Tensor] = {}
    for parameter in module.parameters():
        empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        memo[id(parameter)] = empty
    memo |= {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    return copy.deepcopy(module, memo)
