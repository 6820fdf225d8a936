"""From a config, or from an artifact folder, to a prior."""

from pathlib import Path
from typing import assert_never

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from prior.base import Prior
from prior.config import GPTConfig, PixelCNNConfig, PixelSNAILConfig, PriorConfig


def build_prior(config: PriorConfig) -> Prior:
    """A freshly initialised prior; seed torch's global generator first (`seeding`)."""
    match config.model:
        case GPTConfig():
            from prior.gpt import GPTPrior  # transformers takes seconds to import

            return GPTPrior(config)
        case PixelSNAILConfig():
            from prior.pixelsnail import PixelSNAILPrior

            return PixelSNAILPrior(config)
        case PixelCNNConfig():
            from prior.pixelcnn import PixelCNNPrior

            return PixelCNNPrior(config)
        case _:
            assert_never(config.model)


def load_prior(source: Path | str, revision: str | None = None) -> Prior:
    """See `Prior.from_pretrained`."""
    artifact = artifacts.read_artifact(source, "prior", revision)
    try:
        config = validate(
            artifact.architecture, PriorConfig, f"{artifact.origin}/{artifacts.CONFIG}"
        )
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    with torch.device("meta"):
        skeleton = build_prior(config)
    tensors = artifacts.load_weights(artifact, "prior", skeleton)
    prior = build_prior(config)  # on the CPU, because the body has buffers that are not saved
    prior.load_state_dict(tensors, strict=True)
    prior._fingerprint, prior.origin = artifact.fingerprint, artifact.origin
    prior._loaded_architecture = artifact.architecture
    prior.tokenizer_folder = artifact.folder / "tokenizer"
    return prior.requires_grad_(False).eval()
