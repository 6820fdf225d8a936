"""The arithmetic of torch: precision of float32 products, half precision, determinism."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal, get_args

import torch

from imagetok.errors import ConfigError
from imagetok.suggestions import did_you_mean

EncodePrecision = Literal["float32", "tf32", "bfloat16"]
"""Arithmetic of an encoder. `tf32`: float32 whose products have 10 bits of mantissa, on GPUs."""
_OF_TRAINING = {"fp32": "float32", "bf16": "bfloat16"}
"""Names of `train.precision` -> those of encoding, which code datasets record."""


class _FullFloat32:
    """Counts who needs full float32, because the settings are those of the whole process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.users = 0
        self.before: list[str] = []


_full = _FullFloat32()


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute convolutions and matrix products in full float32 inside the context.

    TF32 (CUDA, 10 bits of mantissa) and bfloat16 (CPU, 7 bits), which
    `torch.set_float32_matmul_precision` allows, are switched off until the last thread has left.

    Inside a function that torch compiles it does nothing: whoever calls that function sets the
    precision around the call, which compiled products follow as others do.
    """
    if torch.compiler.is_compiling():
        yield
        return
    with _full.lock:
        if not _full.users:
            _full.before = _products("ieee", "ieee", "ieee")
        _full.users += 1
    try:
        yield
    finally:
        with _full.lock:
            _full.users -= 1
            if not _full.users:
                _products(*_full.before)


@contextmanager
def tf32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 tensors in TF32 inside the context.

    TF32 has the range of float32 and 10 bits of mantissa. `full_float32` may be used inside, by
    one thread.
    """
    before = _products("tf32", "tf32", "ieee")
    try:
        yield
    finally:
        _products(*before)


def _products(*wanted: str) -> list[str]:
    """Set the precision of cuDNN's convolutions, CUDA's and oneDNN's products; return it before."""
    backends: Any = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting, precision in zip(settings, wanted, strict=True):
        setting.fp32_precision = precision
    return before


def has_tf32(device: torch.device) -> bool:
    """Return whether a device computes in TF32."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()


def check_tf32(device: torch.device, what: str, others: str) -> None:
    """Raise ConfigError where a device has no TF32.

    what: the setting that asks for it. others: what it can be set to on any device.
    """
    if not has_tf32(device):
        raise ConfigError(
            f"{what}: tf32 needs a GPU (of NVIDIA, since Ampere), found {device}; use {others}"
        )


def check_precision(name: str) -> None:
    """Raise ConfigError for a name that is not an `EncodePrecision`."""
    known = get_args(EncodePrecision)
    if name not in known:
        same = _OF_TRAINING.get(name)
        hint = f"; it is {same!r} here" if same else did_you_mean(name, known)
        raise ConfigError(
            f"precision: expected {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, found "
            f"{name!r}{hint}"
        )


@contextmanager
def encoding_precision(precision: EncodePrecision, device: torch.device) -> Iterator[None]:
    """Compute an encoder's forward pass in this precision inside the context.

    An autocast outside the context has no effect in it. Raises ConfigError for another precision,
    and for tf32 on a device without it.
    """
    check_precision(precision)
    if precision == "tf32":
        check_tf32(device, "precision", "float32 or bfloat16")
    products = tf32() if precision == "tf32" else full_float32()
    half = precision == "bfloat16"
    with products, torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield


def half_precision(name: Literal["no", "bf16", "fp16"], device: torch.device) -> torch.autocast:
    """Return a context that computes products in the half precision of a training, if any."""
    dtype = torch.float16 if name == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=name != "no")


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Use only algorithms that give the same bits in every run on the same device.

    On GPUs some operations add in an order that varies, and convolutions try several algorithms;
    inside the context, an operation that has no deterministic form raises RuntimeError. On CPUs
    nothing changes.
    """
    deterministic: Any = torch.utils.deterministic  # pyright: ignore[reportAttributeAccessIssue]
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        deterministic.fill_uninitialized_memory,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    deterministic.fill_uninitialized_memory = False  # nothing reads it, and it takes time
    try:
        yield
    finally:
        enabled, warn_only, benchmark, fill = before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        deterministic.fill_uninitialized_memory = fill
