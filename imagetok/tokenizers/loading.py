"""Loading tokenizers from an object, a folder or a Hub id."""

from pathlib import Path

import torch

from imagetok.errors import ArtifactError
from imagetok.processes import choose_device, device_of
from imagetok.tokenizers.base import Autoencoder, Tokenizer


def open_autoencoder(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> Autoencoder:
    """Return a tokenizer or VAE on a device; a folder or Hub id is loaded.

    device: None keeps the device of a model, and chooses one for a loaded model.
    """
    if isinstance(given, Autoencoder):
        return given if device is None else given.to(choose_device(device))
    return Autoencoder.from_pretrained(given).to(choose_device(device))


def open_tokenizer(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> Tokenizer:
    """Return a tokenizer like `open_autoencoder`; raise ArtifactError for a VAE."""
    if not isinstance(given, Autoencoder):
        return Tokenizer.from_pretrained(given).to(choose_device(device))
    if not isinstance(given, Tokenizer):
        raise ArtifactError(f"expected a tokenizer, found a {given.kind}, which has no codes")
    return given if device is None else given.to(choose_device(device))


def recorded_name(given: Autoencoder | Path | str, model: Autoencoder) -> str:
    """Return the name of a tokenizer in records: its commit on the Hub, else its path."""
    if model.origin:
        return model.origin
    return "a tokenizer in memory" if isinstance(given, Autoencoder) else str(given)


def display_name(given: Autoencoder | Path | str) -> str:
    """Return the path or Hub id of a tokenizer, or the origin of a tokenizer object."""
    if isinstance(given, Autoencoder):
        return given.origin or "a tokenizer in memory"
    return str(given)


def device_for(
    given: Autoencoder | Path | str, device: torch.device | str | None = None
) -> torch.device:
    """Return the device that `open_autoencoder` puts a model on."""
    if device is None and isinstance(given, Autoencoder):
        return device_of(given)
    return choose_device(device)
