"""Priors: autoregressive models of the codes that a tokenizer makes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prior.base import Prior

__all__ = ["Prior"]


def __getattr__(name: str) -> Any:
    if name == "Prior":  # imported when first used: it brings torch along
        from prior.base import Prior

        return Prior
    raise AttributeError(f"module 'prior' has no attribute {name!r}")
