"""Tokenizers as callers give them: an object, a folder, or a Hub id."""

from pathlib import Path

import torch

from imagetok.errors import ArtifactError
from imagetok.processes import choose_device, device_of
from imagetok.tokenizers.base import Autoencoder, Tokenizer


def open_autoencoder(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> Autoencoder:
    """A tokenizer or VAE on a device; a folder or Hub id is loaded.

    device: None leaves a model where it is, and chooses for what is loaded.
    """
    if isinstance(given, Autoencoder):
        return given if device is None else given.to(choose_device(device))
    return Autoencoder.from_pretrained(given).to(choose_device(device))


def open_tokenizer(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> Tokenizer:
    """As `open_autoencoder`, for what has codes; a VAE is refused with ArtifactError."""
    if not isinstance(given, Autoencoder):
        return Tokenizer.from_pretrained(given).to(choose_device(device))
    if not isinstance(given, Tokenizer):
        raise ArtifactError(f"expected a tokenizer, found a {given.kind}, which has no codes")
    return given if device is None else given.to(choose_device(device))


def recorded_name(given: Autoencoder | Path | str, model: Autoencoder) -> str:
    """What a tokenizer is called in records: its commit on the Hub, else as it was given."""
    if model.origin:
        return model.origin
    return "a tokenizer in memory" if isinstance(given, Autoencoder) else str(given)


def display_name(given: Autoencoder | Path | str) -> str:
    """What a caller called a tokenizer: the path or Hub id, or where an object came from."""
    if isinstance(given, Autoencoder):
        return given.origin or "a tokenizer in memory"
    return str(given)


def device_for(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> torch.device:
    """Where `open_autoencoder` puts a model: the device asked for, where it is, or a chosen one."""
    if device is None and isinstance(given, Autoencoder):
        return device_of(given)
    return choose_device(device)
