"""Building a tokenizer or VAE from a config or an artifact."""

from collections.abc import Mapping
from typing import Any

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from imagetok.networks import VQVAE2Config
from imagetok.tokenizers.base import Autoencoder, Tokenizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.flat import FlatTokenizer
from imagetok.tokenizers.hierarchical import HierarchicalTokenizer
from imagetok.tokenizers.vae import VAE


def build_autoencoder(config: TokenizerConfig) -> Autoencoder:
    """Build a newly initialised model; seed torch's global generator first (see `seeding`)."""
    return VAE(config) if config.latent is not None else build_tokenizer(config)


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """Build a newly initialised tokenizer; raise ConfigError for the config of a VAE."""
    if config.latent is not None:
        raise ConfigError(
            "tokenizer: expected a section `quantizer` or `quantizers`, found `latent`, which is "
            "continuous and has no codes; build it with build_autoencoder"
        )
    if isinstance(config.network, VQVAE2Config):
        return HierarchicalTokenizer(config)
    return FlatTokenizer(config)


def build_skeleton(architecture: Mapping[str, Any], where: str) -> Autoencoder:
    """Build the model of an artifact's architecture on the meta device.

    where: name of the artifact, for messages. Raises ArtifactError for an invalid architecture.
    """
    try:
        config = validate(architecture, TokenizerConfig, where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    try:
        with torch.device("meta"):
            return build_autoencoder(config)
    except ConfigError as error:
        raise ArtifactError(f"{where}: {error}") from error
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch can count
        raise ArtifactError(
            f"{where}: no model has this architecture: {str(error).splitlines()[0]}"
        ) from None


def load_autoencoder(artifact: artifacts.Artifact) -> Autoencoder:
    """Load the tokenizer or VAE of an artifact; see `Autoencoder.from_pretrained`."""
    artifacts.check_plugins(artifact)
    where = f"{artifact.origin}/{artifacts.CONFIG}"
    skeleton = build_skeleton(artifact.architecture, where)
    if skeleton.kind != artifact.kind:
        raise ArtifactError(f"{where}: no {artifact.kind} has this architecture")
    tensors = artifacts.load_weights(artifact, artifact.kind, skeleton)
    skeleton.load_state_dict(tensors, strict=True, assign=True)
    if artifact.ancestry is not None:
        coding = skeleton.tensors_of("encoder", "quantizer")
        artifacts.check_ancestry(artifact.origin, artifact.ancestry, artifact.architecture, coding)
    return skeleton
