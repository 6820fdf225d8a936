"""Priors: autoregressive models of the codes that a tokenizer makes.

The names below are the public API; they are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prior.base import Prior
    from prior.trained import train

_HOMES = {
    "Prior": "prior.base",
    "train": "prior.trained",
}

__all__ = [
    "Prior",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prior' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
