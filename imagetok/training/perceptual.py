"""The perceptual loss: how far reconstructions are from their images in the features of a network.

Its networks and their weights are those of the measures: LPIPS, or a feature network.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.evaluation.feature_networks import FeatureNetwork, open_features
from imagetok.evaluation.lpips import PerceptualDistance, open_perceptual
from imagetok.images import ImageContract
from imagetok.precision import half_precision
from imagetok.processes import with_channels_last
from imagetok.training.config import HalfPrecision, PerceptualConfig

_LPIPS = "lpips:"
_KEY = "objective.perceptual.network"


class PerceptualLoss(nn.Module):
    """Mean distance of reconstructions to their images; gradients reach the reconstructions alone.

    LPIPS (Zhang et al. 2018, eq. 1), or the mean squared error of a feature network's features or
    logits. Products are in the half precision of the training, if it has one; distances in float32.
    """

    def __init__(self, config: PerceptualConfig, image: ImageContract, precision: HalfPrecision):
        """precision: the half precision of the training, or `no`.

        Raises ConfigError for a network that cannot be a loss of these images, and what
        `open_perceptual` and `open_features` raise.
        """
        super().__init__()
        self.of = config.of
        self.precision: HalfPrecision = precision
        self.network = with_channels_last(_open(config, image))

    @property
    def sha256(self) -> str:
        """The hash of the network's weights."""
        return self.network.sha256

    def forward(
        self, x_hat: Float[Tensor, "B C H W"], images: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, ""]:
        """Return the mean over the batch; pixels in [0, 1], those of x_hat may be outside."""
        with half_precision(self.precision, x_hat.device):
            with torch.no_grad():
                wanted = self._features(images)
            found = self._features(x_hat)
        if isinstance(self.network, PerceptualDistance):
            return self.network.between(found, wanted).mean()
        return (found[0].float() - wanted[0].float()).square().mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.network, PerceptualDistance):
            return self.network.layers(images)
        features = self.network.learnable(images)
        if self.of == "features":
            return [features.vectors]
        assert features.logits is not None  # checked when it was opened
        return [features.logits]


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Put the key before messages, which name the options of measures."""
    try:
        yield
    except (ConfigError, InputError, ResourceError) as error:
        if str(error).startswith(key):
            raise
        raise type(error)(f"{key}: {error}") from None


@_named(_KEY)
def _open(config: PerceptualConfig, image: ImageContract) -> PerceptualDistance | FeatureNetwork:
    name = config.network
    if image.mode == "labels":
        raise ConfigError(f"{_KEY}: expected a tokenizer of images, found label maps")
    if name.startswith(_LPIPS):
        distance = open_perceptual(name.removeprefix(_LPIPS), f"{_KEY}={_LPIPS}")
        if min(image.height, image.width) < distance.smallest:
            raise ConfigError(
                f"{_KEY}: {name} needs images of at least {distance.smallest} x "
                f"{distance.smallest} pixels, found {image.height} x {image.width}; use lpips:vgg, "
                "which needs 16 x 16, cifar-resnet=FILE, or larger images"
            )
        return distance
    network = open_features(name)
    size = 2, image.channels, image.height, image.width
    with torch.no_grad():
        features = network.learnable(torch.zeros(size))  # refuses now what a step would refuse
    if config.of == "logits" and features.logits is None:
        raise ConfigError(f"{_KEY}: {name} has no logits; set objective.perceptual.of=features")
    return network
