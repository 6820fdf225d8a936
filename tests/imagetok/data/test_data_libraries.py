"""LSUN's LMDB files and the `datasets` library, read with our own decoder."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from imagetok.data import (
    NO_LABEL,
    HuggingFaceConfig,
    ImageDataset,
    ImageError,
    LSUNConfig,
    open_images,
)
from imagetok.data.huggingface import HuggingFaceImages
from imagetok.errors import ConfigError, InputError, ResourceError
from imagetok.images import ImageContract
from imagetok.seeding import generator

CONTRACT = ImageContract(height=8, width=8)
SQUASHED = ImageContract(height=128, width=128, resize="stretch")


def encoded(number: int, kind: str = "WEBP", size: tuple[int, int] = (341, 256)) -> bytes:
    shape = (size[1], size[0], 3)
    noise = torch.randint(0, 256, shape, generator=generator(number), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(noise.numpy()).save(file, kind)
    return file.getvalue()


def write_lsun(root: Path, broken: bool = False) -> None:
    """The folders of LSUN's own download, of 5 + 2 images."""
    lmdb = pytest.importorskip("lmdb")
    for part, numbers in [("train", (4, 0, 3, 1, 2)), ("val", (6, 5))]:
        with (
            lmdb.open(str(root / f"church_outdoor_{part}_lmdb"), map_size=1 << 24) as environment,
            environment.begin(write=True) as transaction,
        ):
            for number in numbers:
                data = encoded(number)[:-9] if broken and number == 3 else encoded(number)
                transaction.put(f"{number:040x}".encode(), data)


def everything(dataset: ImageDataset) -> torch.Tensor:
    return dataset.read(range(len(dataset))).images


def test_lsun_is_torchvisions(tmp_path, monkeypatch):
    write_lsun(tmp_path)
    from torchvision.datasets import LSUN

    config = LSUNConfig(root=str(tmp_path))
    ours = {s: open_images(config, s, SQUASHED) for s in ("train", "val", "test", "all")}
    images = {split: everything(dataset) for split, dataset in ours.items()}
    recipe = v2.Compose([v2.Resize((128, 128)), v2.PILToTensor()])
    for number, image in enumerate(images["all"]):
        assert torch.equal(image, recipe(Image.open(io.BytesIO(encoded(number)))))
    assert torch.equal(images["test"], images["val"])
    assert torch.equal(torch.cat([images["train"], images["val"]]), images["all"])
    assert ours["all"].path_of(0).endswith(f"church_outdoor_train_lmdb/{0:040x}")
    assert ours["train"].identity() != ours["val"].identity() == ours["test"].identity()
    assert ours["train"].num_classes is None
    theirs = tmp_path / "theirs"  # LMDB opens a folder once a process
    theirs.mkdir()
    write_lsun(theirs)
    monkeypatch.chdir(theirs)  # it writes its pickled keys where it is
    both = LSUN(str(theirs), ["church_outdoor_train"], transform=recipe)
    assert torch.equal(torch.stack([image for image, _ in both]), images["train"])


@pytest.mark.slow
def test_lsun_is_read_by_worker_processes(tmp_path):
    write_lsun(tmp_path)
    dataset = open_images(LSUNConfig(root=str(tmp_path)), "train", CONTRACT)
    expected = everything(dataset)
    for context in ("fork", "spawn"):
        loader = DataLoader(dataset, 2, num_workers=2, multiprocessing_context=context)
        assert torch.equal(torch.cat([batch.images for batch in loader]), expected)
    assert torch.equal(everything(pickle.loads(pickle.dumps(dataset))), expected)


def test_a_cut_lsun_image_is_named_and_a_missing_set_says_how_to_get_it(tmp_path):
    pytest.importorskip("lmdb")
    with pytest.raises(InputError, match=r"download\.py -c church_outdoor. of github") as caught:
        open_images(LSUNConfig(root=str(tmp_path)), "train", CONTRACT)
    assert "\n" not in str(caught.value)
    write_lsun(tmp_path, broken=True)
    dataset = open_images(LSUNConfig(root=str(tmp_path)), "train", CONTRACT)
    with pytest.raises(ImageError) as damaged:
        everything(dataset)
    assert (damaged.value.path, damaged.value.reason) == (dataset.path_of(3), "truncated")
    path = tmp_path / "church_outdoor_val_lmdb" / "data.mdb"
    path.write_bytes(b"no database" * 999)
    with pytest.raises(InputError, match="damaged"):
        open_images(LSUNConfig(root=str(tmp_path)), "val", CONTRACT)


PNGS = [encoded(number, "PNG", (8, 8)) for number in range(6)]


def rows(folder: Path, names: list[str] | None = None):
    """A Dataset of six images in two classes."""
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    label = datasets.ClassLabel(names=names) if names else datasets.Value("string")
    labels = [i % 2 if names else "yx"[i % 2] for i in range(6)]
    images = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PNGS)]
    table = pyarrow.table({"image": images, "label": labels, "more": labels})
    parquet.write_table(table, folder / "raw.parquet")
    features = datasets.Features({"image": datasets.Image(), "label": label, "more": label})
    return datasets.load_dataset(
        "parquet", data_files=str(folder / "raw.parquet"), features=features, split="train"
    )


def opened(name: Path, split: str = "train", **options) -> ImageDataset:
    return open_images(HuggingFaceConfig(name=str(name), **options), split, CONTRACT)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is written to the user's cache of datasets."""
    try:
        import datasets
    except ImportError:
        return
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_dataset_saved_to_disk_or_as_parquet_gives_its_pixels_and_labels(tmp_path):
    table = rows(tmp_path, names=["dog", "cat"])
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "train.parquet")
    expected = torch.stack([v2.functional.pil_to_tensor(Image.open(io.BytesIO(d))) for d in PNGS])
    for folder in ("saved", "parquet"):
        dataset = opened(tmp_path / folder, "all")
        batch = dataset.read(range(6))
        assert torch.equal(batch.images, expected)
        assert batch.labels.tolist() == [0, 1] * 3
        assert dataset.class_names == ("dog", "cat")
    assert (
        opened(tmp_path / "saved", "all").identity()
        == opened(tmp_path / "parquet", "all").identity()
    )
    unlabelled = opened(tmp_path / "saved", "all", label="")
    assert unlabelled.read([0]).labels.tolist() == [NO_LABEL]


def test_a_folder_of_image_files_is_read_by_the_library(tmp_path):
    for number, data in enumerate(PNGS):
        path = tmp_path / "images" / "train" / "yx"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    dataset = opened(tmp_path / "images", "all")
    assert dataset.class_names == ("x", "y")
    assert len(dataset) == 6
    assert dataset.identity() == opened(tmp_path / "images", "all").identity()


def test_splits_are_the_datasets_own_or_held_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows(tmp_path).save_to_disk(tmp_path / "one")
    train, test = (opened(tmp_path / "one", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (5, 1)
    parts = {"train": rows(tmp_path).select([0, 2]), "validation": rows(tmp_path).select([1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    for split, label in [("train", [1, 1]), ("val", [0]), ("test", [0])]:
        dataset = opened(tmp_path / "two", split)
        assert dataset.read(range(len(dataset))).labels.tolist() == label
        assert dataset.class_names == ("x", "y")
    assert len(opened(tmp_path / "two", "all")) == 3


def test_numbers_of_any_type_are_labels_and_splits_have_any_name(tmp_path):
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def save(name: str, labels: list, part: str) -> None:
        images = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PNGS)]
        table = pyarrow.table({"image": images[: len(labels)], "label": labels})
        (tmp_path / name).mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "raw.parquet")
        kind = datasets.Value("float64" if isinstance(labels[0], float) else "string")
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        rows = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "raw.parquet"), features=features, split="train"
        )
        rows.to_parquet(tmp_path / name / f"{part}.parquet")

    save("floats", [0.0, 10.0, None, 2.0, float("nan"), 1.0], "train")
    dataset = opened(tmp_path / "floats", "all")
    assert dataset.read(range(6)).labels.tolist() == [0, 10, NO_LABEL, 2, NO_LABEL, 1]
    save("mixed", ["0", "1"], "train")
    save("mixed", ["2", "cat"], "validation")
    with pytest.raises(InputError, match=r"val, row 1: expected a whole number, as 3 other labels"):
        opened(tmp_path / "mixed", "train")


def test_what_is_wrong_with_a_dataset_is_said(tmp_path):
    rows(tmp_path).save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigError, match="expected a column 'picture', found image, label, more"):
        opened(tmp_path / "saved", image="picture")
    with pytest.raises(ConfigError, match="expected images in column 'more'"):
        opened(tmp_path / "saved", image="more")
    with pytest.raises(ConfigError, match="one of the splits train, test, all; found 'val'"):
        opened(tmp_path / "saved", "val")
    with pytest.raises((InputError, ResourceError), match="cannot be opened"):
        opened(tmp_path / "nothing")


def test_a_row_without_an_image_is_missing():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(decode=False)})
    images = [{"bytes": PNGS[0], "path": "0.png"}, None, {"bytes": None, "path": "gone.png"}]
    dataset = HuggingFaceImages(
        datasets.Dataset.from_dict({"image": images}, features=features),
        "image",
        split="all",
        contract=CONTRACT,
        labels=[NO_LABEL] * 3,
        class_names=(),
    )
    assert dataset.contents()[1:] == [("", 0), ("gone.png", -1)]
    for index in (1, 2):
        with pytest.raises(ImageError) as caught:
            dataset.read([index])
        assert caught.value.reason == "missing"


def test_damaged_pages_of_lsun_are_refused(tmp_path):
    for name in ("cut", "index", "leaf"):
        (tmp_path / name).mkdir()
        write_lsun(tmp_path / name)
    files = {n: tmp_path / n / "church_outdoor_train_lmdb" / "data.mdb" for n in ("cut", "index")}
    data = files["cut"].read_bytes()
    files["cut"].write_bytes(data[: len(data) // 8192 * 4096])
    with pytest.raises(InputError, match=r"damaged .expected [0-9,]+ bytes, found"):
        open_images(LSUNConfig(root=str(tmp_path / "cut")), "train", CONTRACT)
    pages = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    leaves = [i for i, page in enumerate(pages) if i > 1 and page[10:12] == b"\2\0"]
    damaged = bytearray(data)
    for leaf in leaves:
        damaged[leaf * 4096 + 10] = 4  # says that it is no leaf
    files["index"].write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        open_images(LSUNConfig(root=str(tmp_path / "index")), "train", CONTRACT)
    dataset = open_images(LSUNConfig(root=str(tmp_path / "leaf")), "train", CONTRACT)
    with (tmp_path / "leaf" / "church_outdoor_train_lmdb" / "data.mdb").open("r+b") as file:
        file.write(damaged)  # the pages are mapped, so that it is seen
    with pytest.raises(ImageError, match="cannot be read"):
        dataset.read([0])
