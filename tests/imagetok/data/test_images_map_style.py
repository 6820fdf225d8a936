"""An image source is a map-style dataset like any other: indices, loaders and subsets."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, default_collate, random_split

from imagetok.data import (
    DigitsConfig,
    FolderConfig,
    ImageBatch,
    ImageDataset,
    ShapesConfig,
    WebDatasetConfig,
    open_images,
)
from imagetok.data.inputs import open_inputs
from imagetok.data.subset import ImageSubset
from imagetok.images import ImageContract

COUNT = 21
FORM = ImageContract(height=8, width=8)


def png(number: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (9, 8), (number, 2 * number, 255 - number)).save(data, "PNG")
    return data.getvalue()


def folder(root) -> ImageDataset:
    for number in range(COUNT):
        path = root / "photos" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return open_images(FolderConfig(root=str(root / "photos")), "all", FORM)


def tar(root) -> ImageDataset:
    with tarfile.open(root / "photos.tar", "w") as file:
        for number in range(COUNT):
            for ending, data in (("png", png(number)), ("cls", b"%d" % (number % 3))):
                member = tarfile.TarInfo(f"{number:02d}.{ending}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
    return open_images(WebDatasetConfig(shards=str(root / "photos.tar")), "all", FORM)


def pictures(root) -> ImageDataset:
    return open_inputs([Image.open(io.BytesIO(png(i))) for i in range(COUNT)], FORM).dataset


SOURCES = {
    "in memory": lambda _: ImageSubset(open_images(DigitsConfig(), "test", FORM), COUNT),
    "drawn": lambda _: open_images(ShapesConfig(count=COUNT), "train", FORM),
    "files": folder,
    "tar": tar,
    "of the caller": pictures,
}


@pytest.fixture(params=SOURCES)
def dataset(request, tmp_path) -> ImageDataset:
    return SOURCES[request.param](tmp_path)


@pytest.fixture
def drawn(tmp_path) -> ImageDataset:
    return SOURCES["drawn"](tmp_path)


def assert_images(found: ImageBatch, dataset: ImageDataset, indices: list[int]) -> None:
    assert type(found) is ImageBatch
    assert found.indices.tolist() == indices
    for one, other in zip(found, dataset.read(indices), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_subsets_and_joined_datasets_have_batches(dataset, workers):
    first, second = random_split(dataset, [0.6, 0.4], torch.Generator().manual_seed(0))
    for part, indices in (
        (dataset, range(COUNT)),
        (Subset(dataset, range(20, 3, -2)), range(20, 3, -2)),
        (ConcatDataset([first, second]), [*first.indices, *second.indices]),
    ):
        batches = list(DataLoader(part, batch_size=8, num_workers=workers))
        assert {type(batch) for batch in batches} == {ImageBatch}
        assert [len(batch.labels) for batch in batches][:-1] == [8] * (len(batches) - 1)
        joined = ImageBatch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
        assert_images(joined, dataset, list(indices))


@pytest.mark.slow
def test_spawned_workers_read_the_same_images(dataset):
    loader = DataLoader(dataset, COUNT, num_workers=1, multiprocessing_context="spawn")
    (batch,) = loader
    assert_images(batch, dataset, list(range(COUNT)))


def test_slices_lists_arrays_tensors_and_masks_are_batches(drawn):
    every = list(range(COUNT))
    for index in (slice(3, 8), slice(None, None, -4), slice(-2, None), slice(5, 5)):
        assert_images(drawn[index], drawn, every[index])
    for index in ([20, 3, 3], (20, 3, 3), np.array([20, 3, -18]), torch.tensor([-1, 3, 3])):
        assert_images(drawn[index], drawn, [20, 3, 3])
    assert_images(drawn[torch.arange(COUNT) % 10 == 2], drawn, [2, 12])
    assert_images(drawn[range(18, COUNT)], drawn, [18, 19, 20])


def test_one_image_has_no_leading_axis_and_counts_from_either_end(drawn):
    whole = drawn.read(range(COUNT))
    for index in (4, np.int64(4), torch.tensor(4), 4 - COUNT):
        found = drawn[index]
        assert torch.equal(found.images, whole.images[4])
        assert (found.labels, found.indices) == (whole.labels[4], 4)
    for index in (COUNT, -COUNT - 1, [0, COUNT]):
        with pytest.raises(IndexError, match="out of range for 21 samples"):
            drawn[index]
    with pytest.raises(IndexError, match="a mask over 21 samples, found one over 2"):
        drawn[[True, False]]
    assert [image.indices for image in drawn] == list(range(COUNT))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("index", [1.5, "3", None, [0.5], np.zeros((2, 2), int)])
def test_other_indices_are_refused(drawn, index):
    with pytest.raises(TypeError):
        drawn[index]


def test_a_collate_function_sees_images_or_the_batch(drawn):
    def stacked(images):
        return torch.stack([image.images for image in images])

    (batch,) = DataLoader(drawn, batch_size=COUNT, collate_fn=stacked)
    assert torch.equal(batch, drawn[:].images)
    images = drawn.__getitems__([5, -1])
    assert len(images) == 2 and [image.indices for image in images[::-1]] == [20, 5]
    assert_images(images.batch, drawn, [5, 20])
    assert_images(default_collate([drawn[5], drawn[20]]), drawn, [5, 20])
    pairs = [(drawn[5], "five"), (drawn[20], "twenty")]  # of a wrapper of the caller's
    assert_images(default_collate(pairs)[0], drawn, [5, 20])
