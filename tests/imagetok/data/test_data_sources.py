"""Every source: the same pixels each time, disjoint and complete splits, clear refusals."""

import gzip
import struct

import numpy as np
import pytest
import torch

from imagetok.data import (
    NO_LABEL,
    ArrayImages,
    CIFAR10Config,
    DigitsConfig,
    FashionMNISTConfig,
    ImageBatch,
    MNISTConfig,
    ShapesConfig,
    open_images,
)
from imagetok.data.digits import open_digits
from imagetok.data.shapes import Shapes
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

RGB = ImageContract(height=32, width=32, interpolation="bicubic")
GREY = ImageContract(mode="grey", height=8, width=8)


def everything(dataset) -> ImageBatch:
    return dataset.read(range(len(dataset)))


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_digits_are_sklearns_scaled_to_bytes():
    datasets = pytest.importorskip("sklearn.datasets")
    expected = datasets.load_digits()
    batch = everything(open_images(DigitsConfig(), "all", GREY))
    assert torch.equal(batch.labels, torch.from_numpy(expected.target))
    scaled = np.floor(expected.images * 255 / 16 + 0.5).astype(np.uint8)
    assert np.array_equal(batch.images[:, 0].numpy(), scaled)


def test_the_splits_of_digits_are_fixed_disjoint_and_complete():
    train, test, both = (everything(open_digits(s, GREY)) for s in ("train", "test", "all"))
    assert (len(train.labels), len(test.labels)) == (1617, 180)
    keys = [
        sorted(zip(rows(b.images), b.labels.tolist(), strict=True)) for b in (train, test, both)
    ]
    assert sorted(keys[0] + keys[1]) == keys[2]
    assert torch.equal(test.images, everything(open_digits("test", GREY)).images)
    assert set(test.labels.tolist()) == set(range(10))


def test_digits_take_the_contracts_size_and_mode():
    batch = open_images(DigitsConfig(), "test", RGB).read([3, 1])
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert torch.equal(batch.images[:, 0], batch.images[:, 2])
    assert batch.indices.tolist() == [3, 1]


def shapes(split: str = "train", contract: ImageContract = RGB, **options) -> Shapes:
    config = ShapesConfig(**{"count": 40, "test_count": 20, **options})
    dataset = open_images(config, split, contract)
    assert isinstance(dataset, Shapes)
    return dataset


def test_a_shape_depends_on_seed_split_and_index_alone():
    whole = everything(shapes()).images
    assert torch.equal(shapes(count=99).read([7, 31, 7]).images, whole[[7, 31, 7]])
    assert torch.equal(shapes()[7].images, whole[7])
    assert not torch.equal(shapes(seed=1).read([7]).images, whole[[7]])
    assert not torch.equal(shapes("test").read([7]).images, whole[[7]])


def test_the_splits_of_shapes_are_disjoint_and_complete():
    train, test, both = (everything(shapes(s)) for s in ("train", "test", "all"))
    assert torch.equal(both.images, torch.cat([train.images, test.images]))
    assert torch.equal(both.labels, torch.cat([train.labels, test.labels]))
    assert len(set(rows(both.images))) == 60


def test_every_class_is_drawn_equally_often():
    dataset = shapes()
    assert dataset.num_classes == 10
    assert torch.bincount(everything(dataset).labels).tolist() == [4] * 10


@pytest.mark.parametrize("size", [(12, 12), (32, 32), (40, 24)])
@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_the_class_map_agrees_with_the_picture(size, mode):
    dataset = shapes(contract=ImageContract(mode=mode, height=size[0], width=size[1]))
    batch, maps = everything(dataset), dataset.class_maps(range(40))
    assert maps.dtype == torch.int64
    assert torch.equal(maps[7], dataset.class_map(7))
    for image, label, classes in zip(batch.images, batch.labels, maps, strict=True):
        assert set(classes.unique().tolist()) == {0, 1 + int(label)}
        colours = image.double()
        inside = classes > 0
        # Two colours and their mixtures: each pixel is nearer to the colour of its own side.
        outer = colours[:, ~inside].median(-1).values
        inner = extreme(colours, outer)
        share = ((colours - outer[:, None, None]) * (inner - outer)[:, None, None]).sum(0)
        share /= (inner - outer).square().sum()
        assert ((share > 0.5) == inside).float().mean() > 0.98
        assert share[inside].min() >= 0.47
        assert share[~inside].max() <= 0.53


def extreme(colours: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    distance = (colours - outer[:, None, None]).square().sum(0).flatten()
    return colours.flatten(1)[:, distance.argmax()]


def test_shapes_show_in_grey_too():
    images = everything(shapes(contract=ImageContract(mode="grey", height=32, width=32))).images
    low, high = images.flatten(1).aminmax(dim=1)
    assert (high.int() - low.int()).min() >= 0.29 * 255


def test_circles_have_the_area_of_circles():
    """Coverage sums to the area, so anti-aliasing neither grows nor shrinks a shape."""
    dataset = shapes(contract=ImageContract(height=64, width=64), count=200)
    circles = [i for i in range(200) if i % 10 == 0]
    inside = (dataset.class_maps(circles) > 0).double()
    widths = inside.amax(1).sum(1)
    assert ((inside.sum((1, 2)) / (np.pi / 4 * widths**2)) - 1).abs().max() < 0.06


def test_an_index_outside_is_an_index_error():
    for dataset in (shapes(), open_digits("test", GREY)):
        for index in (-1, len(dataset)):
            with pytest.raises(IndexError, match=f"found {index}"):
                dataset.read([index])
        assert len(list(dataset)) == len(dataset)


def test_unlabelled_arrays_have_label_minus_one():
    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    dataset = ArrayImages(images, name="mine", split="all", contract=GREY)
    assert dataset.read([2, 0]).labels.tolist() == [NO_LABEL, NO_LABEL]
    assert dataset.num_classes is None
    assert dataset.path_of(2) == "mine:all[2]"


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="train, test, all; found 'tset'; did you mean 'test'"):
        open_images(DigitsConfig(), "tset", GREY)


@pytest.mark.parametrize(
    "kind, folder",
    [
        (CIFAR10Config, "cifar-10-batches-py"),
        (MNISTConfig, "MNIST/raw"),
        (FashionMNISTConfig, "FashionMNIST/raw"),
    ],
)
def test_a_missing_dataset_says_how_to_get_it_in_one_line(tmp_path, kind, folder):
    with pytest.raises(InputError) as caught:
        open_images(kind(root=str(tmp_path)), "train", RGB)
    message = str(caught.value)
    assert "add download=true (in a config: --set data.download=true)" in message
    assert message.endswith(f"or put {folder}/ under {tmp_path}")
    assert "no such folder" in message
    assert "\n" not in message


def test_a_cifar_file_of_another_md5_is_never_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(b"cbuiltins\neval\n(S'1/0'\ntR.")  # would raise if loaded
    with pytest.raises(InputError, match="incomplete or damaged"):
        open_images(CIFAR10Config(root=str(tmp_path)), "test", RGB)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, train: int, test_images: bytes, test_labels: bytes) -> None:
    folder.mkdir(parents=True)
    images = np.arange(train * 784, dtype=np.uint32).astype(np.uint8).reshape(train, 28, 28)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(images))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(train, dtype=np.uint8) % 10))
    (folder / "t10k-images-idx3-ubyte").write_bytes(test_images)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(test_labels)


@pytest.mark.parametrize(
    "kind, folder", [(MNISTConfig, "MNIST"), (FashionMNISTConfig, "FashionMNIST")]
)
def test_mnist_files_are_read_as_they_are(tmp_path, kind, folder):
    test = np.full((2, 28, 28), 9, np.uint8)
    write_mnist(tmp_path / folder / "raw", 5, idx(test), idx(np.array([3, 4], np.uint8)))
    contract = ImageContract(mode="grey", height=28, width=28)
    both = open_images(kind(root=str(tmp_path)), "all", contract)
    train = open_images(kind(root=str(tmp_path)), "train", contract)
    assert everything(both).labels.tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert everything(train).images[0, 0, 0, :5].tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(both.read([5, 6]).images[:, 0].numpy(), test)
    assert both.num_classes == 10


def test_the_end_of_train_stands_for_test(tmp_path):
    """As the SQ-VAE papers part CIFAR-10 and MNIST."""
    none = idx(np.zeros((0, 28, 28), np.uint8)), idx(np.zeros(0, np.uint8))
    write_mnist(tmp_path / "MNIST" / "raw", 7, *none)
    contract = ImageContract(mode="grey", height=28, width=28)
    parts = {
        split: open_images(MNISTConfig(root=str(tmp_path), validation=2), split, contract)
        for split in ("train", "test", "all")
    }
    whole = everything(open_images(MNISTConfig(root=str(tmp_path)), "train", contract))
    for split, labels in {"train": [0, 1, 2, 3, 4], "test": [5, 6], "all": [*range(7)]}.items():
        found = everything(parts[split])
        assert found.labels.tolist() == labels
        assert torch.equal(found.images, whole.images[labels])
    assert len({part.identity() for part in parts.values()}) == 3
    with pytest.raises(InputError, match="fewer than the 7 training images, found 7"):
        open_images(MNISTConfig(root=str(tmp_path), validation=7), "train", contract)


def test_real_mnist_test_images(tmp_path, real_data):
    source = real_data / "mnist-test"
    if not source.is_dir():
        pytest.skip("IMAGETOK_TEST_DATA has no mnist-test/")
    images, labels = (
        gzip.decompress((source / f"t10k-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    )
    write_mnist(tmp_path / "MNIST" / "raw", 1, images, labels)
    dataset = open_images(MNISTConfig(root=str(tmp_path)), "test", RGB)
    assert len(dataset) == 10_000
    assert torch.bincount(everything(dataset).labels)[1] == 1135  # LeCun et al.'s own count


@pytest.mark.slow
def test_real_cifar10(tmp_path, real_data):
    """Slow for the unpacking alone: the files are kept as .xz."""
    import lzma

    source = real_data / "cifar10" / "cifar-10-batches-py"
    if not source.is_dir():
        pytest.skip("IMAGETOK_TEST_DATA has no cifar10/")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in source.iterdir():
        is_packed = file.suffix == ".xz"
        data = lzma.decompress(file.read_bytes()) if is_packed else file.read_bytes()
        (folder / (file.stem if is_packed else file.name)).write_bytes(data)
    dataset = open_images(CIFAR10Config(root=str(tmp_path)), "test", RGB)
    assert torch.bincount(everything(dataset).labels).tolist() == [1000] * 10
    assert dataset.class_names[0] == "airplane"
    both = open_images(CIFAR10Config(root=str(tmp_path)), "all", RGB)
    assert torch.equal(both.read(range(50_000, 60_000)).images, everything(dataset).images)
