"""Loading priors together with their tokenizers."""

from pathlib import Path

import torch

from imagetok.errors import ConfigError
from imagetok.processes import choose_device, device_of
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from prior.base import Prior


def open_prior(given: Prior | Path | str, device: torch.device | str | None = None) -> Prior:
    """Return a prior on a device; a folder or Hub id is loaded.

    device: None keeps the device of a model, and chooses one for a loaded prior.
    """
    if isinstance(given, Prior):
        return given if device is None else given.to(choose_device(device))
    return Prior.from_pretrained(given).to(choose_device(device))


def open_pair(
    prior: Prior | Path | str,
    tokenizer: Tokenizer | Path | str | None = None,
    device: torch.device | str | None = None,
) -> tuple[Prior, Tokenizer]:
    """Return a prior and the tokenizer of its codes, on one device.

    tokenizer: None is the one embedded in the prior's folder.

    Raises ShardError for a tokenizer of other codes, ConfigError if there is no tokenizer (the
    prior was never saved), NotFiniteError for weights that are not finite.
    """
    model = open_prior(prior, device)
    given = tokenizer or model.tokenizer_folder
    if given is None:
        raise ConfigError("this prior was never saved with its tokenizer; pass tokenizer=...")
    own = open_tokenizer(given, device_of(model))
    named = tokenizer if isinstance(tokenizer, Path | str) else own.origin
    model.check_tokenizer(own.codes_fingerprint, str(named or prior))
    model.check_finite()
    own.check_finite()
    return model, own.at_grids(model.config.grids)
