"""From a config, or from an artifact folder, to a tokenizer or a VAE."""

from pathlib import Path

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
    """A freshly initialised model; seed torch's global generator first (`seeding`)."""
    return VAE(config) if config.latent is not None else build_tokenizer(config)


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The same, of a config that has codes; ConfigError for a VAE's."""
    if config.latent is not None:
        raise ConfigError(
            "tokenizer: expected a section `quantizer` or `quantizers`, found `latent`, which is "
            "continuous and has no codes; build it with build_autoencoder"
        )
    if isinstance(config.network, VQVAE2Config):
        return HierarchicalTokenizer(config)
    return FlatTokenizer(config)


def load_tokenizer(source: Path | str, revision: str | None = None) -> Tokenizer:
    """See `Tokenizer.from_pretrained`."""
    model = _load(artifacts.read_artifact(source, "tokenizer", revision))
    assert isinstance(model, Tokenizer)
    return model


def load_autoencoder(source: Path | str, revision: str | None = None) -> Autoencoder:
    """See `Autoencoder.from_pretrained`."""
    return _load(artifacts.read_artifact(source, "autoencoder", revision))


def _load(artifact: artifacts.Artifact) -> Autoencoder:
    where = f"{artifact.origin}/{artifacts.CONFIG}"
    try:
        config = validate(artifact.architecture, TokenizerConfig, where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    if (config.latent is not None) != (artifact.kind == "autoencoder"):
        raise ArtifactError(f"{where}: no {artifact.kind} has this architecture")
    try:
        with torch.device("meta"):
            skeleton = build_autoencoder(config)
    except (RuntimeError, TypeError) as error:  # sizes beyond what torch can count
        raise ArtifactError(
            f"{where}: no model has this architecture: {str(error).splitlines()[0]}"
        ) from None
    tensors = artifacts.load_weights(artifact, artifact.kind, skeleton)
    skeleton.load_state_dict(tensors, strict=True, assign=True)
    skeleton._fingerprint, skeleton.origin = artifact.fingerprint, artifact.origin
    skeleton._loaded_architecture = artifact.architecture
    return skeleton.requires_grad_(False).eval()
