"""Cached features are those that would be computed, and only of the same images and network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from imagetok.data import ArrayImages
from imagetok.data.subset import ImageSubset
from imagetok.evaluation.feature_cache import cached_features
from imagetok.evaluation.feature_distances import features_of
from imagetok.evaluation.feature_networks import FeatureNetwork, open_features
from imagetok.images import ImageContract


class Counting(nn.Module):
    """Pooled pixels times a factor, which is no weight; counts the images that it has seen."""

    factor = 1.0
    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.factor * nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture
def images() -> ArrayImages:
    pixels = torch.randint(0, 256, (150, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    contract = ImageContract(height=4, width=4)
    return ArrayImages(
        pixels.to(torch.uint8), torch.arange(150), name="random", split="all", contract=contract
    )


@pytest.fixture
def network() -> FeatureNetwork:
    return open_features("python:test_feature_cache:Counting")


def seen(network: FeatureNetwork, images: ArrayImages | ImageSubset, cache: Path) -> int:
    """Images that the network has seen while its features were asked for, and found as computed."""
    module = next(m for m in network.modules() if isinstance(m, Counting))
    module.seen = 0
    found = cached_features(network, images, cache)
    count = module.seen
    computed = features_of(network, images)
    assert_close(found.vectors, computed.vectors, rtol=0, atol=0)
    assert torch.equal(found.labels, computed.labels) and found.logits is None
    return count


def test_features_are_computed_once(images, network, tmp_path):
    assert [seen(network, images, tmp_path) for _ in range(3)] == [154, 4, 4]


def test_other_images_or_another_network_are_computed(images, network, tmp_path):
    seen(network, images, tmp_path)
    assert seen(network, ImageSubset(images, 20), tmp_path) == 24
    module = next(m for m in network.modules() if isinstance(m, Counting))
    module.factor = 2.0
    assert seen(network, images, tmp_path) == 154, "its code has changed"


def test_a_damaged_file_is_computed_again(images, network, tmp_path):
    seen(network, images, tmp_path)
    (file,) = tmp_path.iterdir()
    for damaged in (file.read_bytes()[:-1] + b"\x01", file.read_bytes()[:50], b""):
        file.write_bytes(damaged)
        assert seen(network, images, tmp_path) == 154
    assert seen(network, images, tmp_path) == 4
