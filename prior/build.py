"""From a config, or from an artifact folder, to a prior."""

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from prior.base import Prior
from prior.config import (
    FlatConfig,
    GPTConfig,
    HierarchyConfig,
    PixelCNNConfig,
    PixelSNAILConfig,
    PriorConfig,
)

if TYPE_CHECKING:
    from prior.gpt import GPTPrior
    from prior.pixelcnn import PixelCNNPrior
    from prior.pixelsnail import PixelSNAILPrior


def build_prior(config: PriorConfig) -> Prior:
    """A freshly initialised prior; seed torch's global generator first (`seeding`)."""
    if not isinstance(config.model, HierarchyConfig):
        return _flat(config, config.model)
    from prior.hierarchy import HierarchicalPrior

    top, bottom = config.model.levels
    return HierarchicalPrior(
        config,
        _flat(config.of_level(0, top), top),
        _flat(config.of_level(1, bottom), bottom, config.model.context.width),
    )


def _flat(
    config: PriorConfig, model: FlatConfig, context_channels: int = 0
) -> "GPTPrior | PixelSNAILPrior | PixelCNNPrior":
    """context_channels: of what every call gives it of another level, beside the class."""
    match model:
        case GPTConfig():
            from prior.gpt import GPTPrior  # transformers takes seconds to import

            return GPTPrior(config, context_channels)
        case PixelSNAILConfig():
            from prior.pixelsnail import PixelSNAILPrior

            return PixelSNAILPrior(config, context_channels)
        case PixelCNNConfig():
            from prior.pixelcnn import PixelCNNPrior

            return PixelCNNPrior(config, context_channels)
        case _:
            assert_never(model)


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
