"""A part of a dataset: the same for the same count, each image once, read as in the whole."""

import pytest
import torch

from imagetok.data import ArrayImages
from imagetok.data.subset import ImageSubset
from imagetok.errors import ConfigError
from imagetok.images import ImageContract


def images(first: int = 0) -> ArrayImages:
    """Forty images; image i has the value i."""
    values = torch.arange(first, first + 40, dtype=torch.uint8)
    contract = ImageContract(mode="grey", height=1, width=1)
    labels = torch.arange(40) % 10
    names = tuple("abcdefghij")
    return ArrayImages(
        values[:, None, None, None], labels, name="values", split="all", contract=contract,
        class_names=names,
    )  # fmt: skip


def test_a_subset_has_each_image_once_in_order():
    whole, part = images(), ImageSubset(images(), 12)
    batch = part.read(range(12))
    assert len(part) == 12 == len(set(part.indices)) and part.indices == sorted(part.indices)
    assert torch.equal(batch.images, whole.read(part.indices).images)
    assert torch.equal(batch.labels, whole.read(part.indices).labels)
    assert batch.indices.tolist() == list(range(12))
    assert part.read([3, 1]).images.flatten().tolist() == [part.indices[3], part.indices[1]]
    assert (part.class_names, part.contract) == (whole.class_names, whole.contract)


def test_the_identity_is_that_of_the_images_and_the_count():
    one = ImageSubset(images(), 12)
    assert one.identity() == ImageSubset(images(), 12).identity()
    others = [images(), ImageSubset(images(), 13), ImageSubset(images(1), 12)]
    assert len({one.identity(), *(other.identity() for other in others)}) == 4
    assert ImageSubset(images(), 40).indices == list(range(40))


@pytest.mark.parametrize("count", [0, 41])
def test_a_count_that_the_dataset_does_not_have_is_refused(count):
    with pytest.raises(ConfigError, match=f"expected 1 to 40, .* found {count}"):
        ImageSubset(images(), count)
