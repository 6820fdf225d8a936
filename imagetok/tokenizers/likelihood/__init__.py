"""Likelihoods: the reconstruction losses, and the conversion of decoder outputs to images."""

from typing import Annotated, assert_never

from pydantic import Field

from imagetok.images import ImageContract
from imagetok.networks import PixelRange
from imagetok.tokenizers.likelihood.base import Likelihood
from imagetok.tokenizers.likelihood.pixels import (
    ARELBOConfig,
    ARELBOLikelihood,
    GaussianConfig,
    GaussianLikelihood,
    MSEConfig,
    MSELikelihood,
)
from imagetok.tokenizers.likelihood.vmf import VMFConfig, VMFLikelihood

LikelihoodConfig = Annotated[
    MSEConfig | ARELBOConfig | GaussianConfig | VMFConfig, Field(discriminator="kind")
]


def build_likelihood(
    config: LikelihoodConfig, image: ImageContract, pixels: PixelRange
) -> Likelihood:
    """Build the likelihood of a config section; pixels: the pixel range of the network."""
    match config:
        case MSEConfig():
            return MSELikelihood(image.channels, pixels)
        case ARELBOConfig():
            return ARELBOLikelihood(image.channels, pixels)
        case GaussianConfig():
            return GaussianLikelihood(image.channels, pixels, config.log_variance)
        case VMFConfig():
            assert image.num_classes is not None
            return VMFLikelihood(image.num_classes, config.log_scale, image.ignore)
        case _:
            assert_never(config)


__all__ = [
    "ARELBOConfig",
    "GaussianConfig",
    "Likelihood",
    "LikelihoodConfig",
    "MSEConfig",
    "VMFConfig",
    "build_likelihood",
]
