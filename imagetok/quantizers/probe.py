"""One run of a registered quantizer on a tiny input when it is built, against its interface."""

import torch
from torch import Tensor

from imagetok.errors import ConfigError
from imagetok.plugins.probing import (
    check_registered_tensors,
    is_on_cpu,
    running,
    spare,
    untouched_randomness,
)
from imagetok.quantizers.base import Quantized, Quantizer
from imagetok.suggestions import counted, shown

_GRID = (2, 2, 2)
"""Images, height and width of the encoder output that it is run on."""


def check_built(quantizer: Quantizer, losses: tuple[str, ...], what: str) -> None:
    """Raise ConfigError for a quantizer that breaks the interface `Quantizer`.

    losses: names that its section declares. what: the part, for messages. A quantizer on the meta
    device, which has no values, is not run. Its weights and the global random state stay as they
    are.
    """
    _check_attributes(quantizer, what)
    check_registered_tensors(quantizer, what)
    if is_on_cpu(quantizer):
        with untouched_randomness(), torch.enable_grad():
            _Probe(spare(quantizer), losses, what).run()


def _check_attributes(quantizer: Quantizer, what: str) -> None:
    if not isinstance(vars(quantizer).get("_parameters"), dict):
        raise ConfigError(
            f"{what}: expected an __init__ that calls super().__init__() first, found none"
        )
    codes: object = getattr(quantizer, "num_codes", None)
    if not isinstance(codes, tuple) or not codes or not all(_is_count(k, 2) for k in codes):
        raise ConfigError(
            f"{what}: num_codes: expected a tuple of ints >= 2, one a level, found {shown(codes)}"
        )
    for name in ("code_dim", "in_channels", "num_heads"):
        value: object = getattr(quantizer, name, None)
        if not _is_count(value, 1):
            raise ConfigError(f"{what}: {name}: expected an int >= 1, found {shown(value)}")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class _Probe:
    """The checks of one quantizer, which may be changed by them."""

    def __init__(self, quantizer: Quantizer, losses: tuple[str, ...], what: str):
        self.quantizer = quantizer
        self.losses = tuple(losses)
        self.what = what

    def run(self) -> None:
        quantizer, draw = self.quantizer, torch.Generator().manual_seed(0)
        h = torch.randn(_GRID[0], quantizer.in_channels, *_GRID[1:], generator=draw)
        given = f"on an encoder output of shape {tuple(h.shape)}"
        with running(self.what, f"forward {given}"):
            out: object = quantizer(h, temperature=1.0, generator=draw)
        if not isinstance(out, Quantized):
            raise self._broken("forward", "a Quantized", type(out).__qualname__)
        self._check_vectors("forward: z_q", out.z_q)
        self._check_codes("forward: indices", out.indices)
        self._check_losses(out.losses)
        if not isinstance(out.stats, dict):
            raise self._broken("forward: stats", "a dict", type(out.stats).__qualname__)
        with torch.no_grad():
            with running(self.what, f"encode {given}"):
                codes = quantizer.encode(h, generator=draw)
            self._check_codes("encode", codes)
            with running(self.what, "decode of the codes that encode returns"):
                z_q = quantizer.decode(codes)
        self._check_vectors("decode", z_q)

    def _check_vectors(self, name: str, value: object) -> None:
        shape = (_GRID[0], self.quantizer.code_dim, *_GRID[1:])
        found = _form(value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != shape:
            raise self._broken(name, f"a floating point tensor of shape {shape}", found)

    def _check_codes(self, name: str, codes: object) -> None:
        sizes = self.quantizer.num_codes
        if not isinstance(codes, tuple) or len(codes) != len(sizes):
            count = f" of {len(codes)}" if isinstance(codes, tuple) else ""
            expected = f"a tuple of {counted(len(sizes), 'code map')}, one a level of num_codes"
            raise self._broken(name, expected, f"{type(codes).__qualname__}{count}")
        for level, (indices, k) in enumerate(zip(codes, sizes, strict=True)):
            is_tensor = isinstance(indices, Tensor) and indices.dtype == torch.int64
            if not is_tensor or tuple(indices.shape) != _GRID:
                expected = f"torch.int64 of shape {_GRID}"
                raise self._broken(f"{name}, level {level}", expected, _form(indices))
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= k:
                found = f"{low} to {high}"
                raise self._broken(f"{name}, level {level}", f"codes in [0, {k})", found)

    def _check_losses(self, losses: object) -> None:
        if not isinstance(losses, dict) or {*losses} != {*self.losses}:
            found = list(losses) if isinstance(losses, dict) else type(losses).__qualname__
            expected = f"a dict of {list(self.losses)}, which the section declares"
            raise self._broken("forward: losses", expected, found)
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
                raise self._broken(
                    f"forward: losses: {name}", "a floating point scalar tensor", _form(loss)
                )

    def _broken(self, name: str, expected: str, found: object) -> ConfigError:
        return ConfigError(f"{self.what}: {name}: expected {expected}, found {found}")


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__qualname__
