"""From a config, or from an artifact folder, to a prior."""

from pathlib import Path

import torch

from imagetok import artifacts
from imagetok.config import validate
from imagetok.errors import ArtifactError, ConfigError
from prior.base import Prior
from prior.config import PriorConfig


def build_prior(config: PriorConfig) -> Prior:
    """A freshly initialised prior; seed torch's global generator first (`seeding`)."""
    from prior.gpt import GPTPrior  # transformers takes seconds to import

    return GPTPrior(config)


def load_prior(folder: Path | str) -> Prior:
    """See `Prior.from_pretrained`."""
    artifact = artifacts.read_artifact(folder, "prior")
    try:
        config = validate(
            artifact.architecture, PriorConfig, f"{artifact.folder / artifacts.CONFIG}"
        )
    except ConfigError as error:
        raise ArtifactError(str(error)) from None
    with torch.device("meta"):
        skeleton = build_prior(config)
    tensors = artifacts.load_weights(artifact, "prior", skeleton)
    prior = build_prior(config)  # on the CPU, because the body has buffers that are not saved
    prior.load_state_dict(tensors, strict=True)
    prior._fingerprint = artifact.fingerprint
    return prior.requires_grad_(False).eval()
