"""A part of a dataset: the same for the same count, each image once, read as in the whole."""

import numpy as np
import pytest
import torch
from PIL import Image

from imagetok.data import ArrayImages, FolderConfig, ImageError, open_images
from imagetok.data.readable import ReadableImages
from imagetok.data.subset import ChosenImages, FirstImages, ImageSubset
from imagetok.data.substitutes import SubstitutedImages
from imagetok.data.unreadable import Unreadable
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


@pytest.mark.parametrize(
    "part",
    [
        lambda whole: FirstImages(whole, 3),
        lambda whole: ImageSubset(whole, 3),
        lambda whole: ReadableImages(whole, [Unreadable(1, "1.png", "truncated")]),
    ],
)
def test_parts_have_the_sizes_files_and_other_forms_of_their_images(part, tmp_path):
    for i in range(5):
        pixels = np.full((4 + i, 8), i, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    small = ImageContract(mode="grey", height=2, width=2)
    large = ImageContract(mode="grey", height=4, width=4)
    chosen: ChosenImages = part(open_images(FolderConfig(root=str(tmp_path)), "all", small))
    for place, index in enumerate(chosen.indices):
        assert chosen.native_size(place) == (4 + index, 8)
        assert chosen.file_of(place) == tmp_path / f"{index}.png"
        assert (header := chosen.header(place)) is not None and header.height == 4 + index
    other = chosen.with_contract(large)
    assert other.read([0, 2]).images.shape == (2, 1, 4, 4)
    assert chosen.read([0, 2]).images.shape == (2, 1, 2, 2)
    assert other.identity() == chosen.identity()
    values = [chosen.indices[0], chosen.indices[2]]
    assert other.read([0, 2]).images[:, 0, 0, 0].tolist() == values


def test_where_no_substitute_can_be_read_it_is_said(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    contract = ImageContract(mode="grey", height=2, width=2)
    whole = open_images(FolderConfig(root=str(tmp_path)), "all", contract)
    with pytest.raises(ImageError, match=r"0\.png.* none of 1,000 other images .* can be read"):
        SubstitutedImages(whole, 0).read_at([0], [0])
