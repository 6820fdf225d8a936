"""Building a prior from a config or an artifact."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, assert_never

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from imagetok.plugins.sections import build_registered
from prior.base import Prior
from prior.config import (
    FlatConfig,
    GPTConfig,
    HierarchyConfig,
    PixelCNNConfig,
    PixelSNAILConfig,
    PriorConfig,
    PriorSection,
)

if TYPE_CHECKING:
    from prior.gpt import GPTPrior
    from prior.pixelcnn import PixelCNNPrior
    from prior.pixelsnail import PixelSNAILPrior


def build_prior(config: PriorConfig) -> Prior:
    """A freshly initialised prior; seed torch's global generator first (`seeding`)."""
    if isinstance(config.model, PriorSection):
        return build_registered(config.model, Prior, config)
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
    """Build a prior of one level; context_channels: channels of the features of another level."""
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


def build_skeleton(architecture: Mapping[str, Any], where: str) -> Prior:
    """Build the prior of an artifact's architecture on the meta device.

    where: name of the artifact, for messages. Raises ArtifactError for an invalid architecture.
    """
    config = _config(architecture, where)
    try:
        with torch.device("meta"):
            return build_prior(config)
    except ConfigError as error:
        raise ArtifactError(f"{where}: {error}") from error


def load_prior(artifact: artifacts.Artifact) -> Prior:
    """Load the prior of an artifact; see `Prior.from_pretrained`."""
    artifacts.check_plugins(artifact)
    where = f"{artifact.origin}/{artifacts.CONFIG}"
    skeleton = build_skeleton(artifact.architecture, where)
    tensors = artifacts.load_weights(artifact, "prior", skeleton)
    # Built again on the CPU, because the transformer has buffers that are not saved.
    prior = build_prior(skeleton.config)
    prior.load_state_dict(tensors, strict=True)
    prior.tokenizer_folder = artifact.folder / "tokenizer"
    return prior


def _config(architecture: Mapping[str, Any], where: str) -> PriorConfig:
    try:
        return validate(architecture, PriorConfig, where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
