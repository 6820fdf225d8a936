"""The weights that a run starts from: those of another tokenizer, of which parts may be fixed."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from imagetok.config import differences_shown
from imagetok.errors import ArtifactError, ConfigError
from imagetok.tokenizers import Autoencoder, Tokenizer


class StartingWeights(NamedTuple):
    """Where the weights of a run come from."""

    fingerprint: str = ""
    """Fingerprint of the artifact; "" for new weights."""
    fixed: Mapping[str, Tensor] = {}
    """Its tensors that training must not change, by name."""

    def check_kept(self, model: Autoencoder) -> None:
        """Raise ArtifactError unless a trained model has the fixed tensors, bit for bit."""
        found = model.state_dict()
        for name, tensor in self.fixed.items():
            if not torch.equal(found[name].cpu(), tensor):
                raise ArtifactError(
                    f"{name}: expected the values of the tokenizer that the run started from "
                    f"({self.fingerprint[:16]}), because only the decoder is trained, found "
                    "others: a checkpoint was changed, or a part of your own changes its buffers "
                    "in eval mode; nothing was exported"
                )


def start(
    tokenizer: Autoencoder, init_from: Path | str | None, *, only_decoder: bool
) -> StartingWeights:
    """Load the weights of an artifact into a new model, and fix what does not learn.

    init_from: folder or Hub id; None keeps the new weights. only_decoder: the model will have the
    codes of that tokenizer. Raises ConfigError for another architecture, or for no artifact where
    only the decoder learns.
    """
    if init_from is None:
        if only_decoder:
            raise ConfigError(
                "trained: decoder: expected --init-from with the tokenizer whose decoder is to be "
                "trained, also beside --resume, found none; add it, or set trained=all"
            )
        return StartingWeights()
    source = Autoencoder.from_pretrained(init_from)
    if source.config != tokenizer.config:
        raise ConfigError(
            f"--init-from {init_from}: its architecture differs from the config's section "
            f"tokenizer ({differences_shown(source.config, tokenizer.config)}); change these keys, "
            f"or copy the section from {init_from}/config.json"
        )
    tokenizer.load_state_dict(source.state_dict(), strict=True)
    if not only_decoder:
        return StartingWeights(source.fingerprint)
    assert isinstance(tokenizer, Tokenizer) and isinstance(source, Tokenizer)
    tokenizer.fix_codes(source)
    return StartingWeights(source.fingerprint, source.tensors_of("encoder", "quantizer"))
