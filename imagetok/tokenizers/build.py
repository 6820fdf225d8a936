"""From a config, or from an artifact folder, to a tokenizer."""

from pathlib import Path

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from imagetok.tokenizers.base import Tokenizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.flat import FlatTokenizer


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A freshly initialised tokenizer; seed torch's global generator first (`seeding`)."""
    return FlatTokenizer(config)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """See `Tokenizer.from_pretrained`."""
    artifact = artifacts.read_artifact(folder, "tokenizer")
    try:
        config = validate(
            artifact.architecture, TokenizerConfig, f"{artifact.folder / artifacts.CONFIG}"
        )
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    try:
        with torch.device("meta"):
            skeleton = build_tokenizer(config)
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch can count
        raise ArtifactError(
            f"{artifact.folder / artifacts.CONFIG}: no model has this architecture: "
            f"{str(error).splitlines()[0]}"
        ) from None
    tensors = artifacts.load_weights(artifact, "tokenizer", skeleton)
    skeleton.load_state_dict(tensors, strict=True, assign=True)
    skeleton._fingerprint = artifact.fingerprint
    return skeleton.requires_grad_(False).eval()
