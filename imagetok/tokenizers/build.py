"""From a config, or from an artifact folder, to a tokenizer."""

from pathlib import Path

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from imagetok.networks import VQVAE2Config
from imagetok.tokenizers.base import Tokenizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.tokenizers.hierarchical import HierarchicalTokenizer


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A freshly initialised tokenizer; seed torch's global generator first (`seeding`)."""
    if isinstance(config.network, VQVAE2Config):
        return HierarchicalTokenizer(config)
    return FlatTokenizer(config)


def load_tokenizer(source: Path | str, revision: str | None = None) -> Tokenizer:
    """See `Tokenizer.from_pretrained`."""
    artifact = artifacts.read_artifact(source, "tokenizer", revision)
    where = f"{artifact.origin}/{artifacts.CONFIG}"
    try:
        config = validate(artifact.architecture, TokenizerConfig, where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    try:
        with torch.device("meta"):
            skeleton = build_tokenizer(config)
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch can count
        raise ArtifactError(
            f"{where}: no model has this architecture: {str(error).splitlines()[0]}"
        ) from None
    tensors = artifacts.load_weights(artifact, "tokenizer", skeleton)
    skeleton.load_state_dict(tensors, strict=True, assign=True)
    skeleton._fingerprint, skeleton.origin = artifact.fingerprint, artifact.origin
    skeleton._loaded_architecture = artifact.architecture
    return skeleton.requires_grad_(False).eval()
