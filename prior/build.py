"""From a config, or from an artifact folder, to a prior."""

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from prior.base import Prior
from prior.config import (
    GPTConfig,
    HierarchyConfig,
    PixelCNNConfig,
    PixelSNAILConfig,
    PriorConfig,
)

if TYPE_CHECKING:
    from prior.pixelcnn import PixelCNNPrior
    from prior.pixelsnail import PixelSNAILPrior


def build_prior(config: PriorConfig) -> Prior:
    """A freshly initialised prior; seed torch's global generator first (`seeding`)."""
    match config.model:
        case GPTConfig():
            from prior.gpt import GPTPrior  # transformers takes seconds to import

            return GPTPrior(config)
        case PixelSNAILConfig() | PixelCNNConfig():
            return _convolutional(config)
        case HierarchyConfig(top=top, bottom=bottom, context=context):
            from prior.hierarchy import HierarchicalPrior

            return HierarchicalPrior(
                config,
                build_prior(config.of_level(0, top)),
                _convolutional(config.of_level(1, bottom), context.width),
            )
        case _:
            assert_never(config.model)


def _convolutional(
    config: PriorConfig, context_channels: int = 0
) -> "PixelSNAILPrior | PixelCNNPrior":
    """context_channels: of what every call gives it of another level, beside the class."""
    from prior.pixelcnn import PixelCNNPrior
    from prior.pixelsnail import PixelSNAILPrior

    if isinstance(config.model, PixelSNAILConfig):
        return PixelSNAILPrior(config, context_channels)
    return PixelCNNPrior(config, context_channels)


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
