"""Configs of image sources: one section per source, and their form as one line of text (specs)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from imagetok.config import PlaceOrUrl, Section, Size, validate
from imagetok.data.labels_and_splits import split_of
from imagetok.errors import ConfigError
from imagetok.plugins.registry import OwnPart, OwnSection, find, hint_for, names_in, registered
from imagetok.plugins.sections import OrRegistered
from imagetok.suggestions import did_you_mean, shown

Holdout = Annotated[float, Field(gt=0, lt=1)]


class DataSection(OwnSection):
    """Base of the config section of a data source of your own.

    Give it `source: Literal["my-name"] = "my-name"` and its keys. Keys named `root`, `file`,
    `images`, `masks`, `shards` and `test` say where images lie, and may differ where runs are
    resumed or compared; images are the same if the dataset's `identity` is.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "test", "all")
    """The splits that it has; training reads `train` and `test`."""
    if TYPE_CHECKING:
        source: Any  # a Literal of the section

    @classmethod
    def own_part(cls) -> OwnPart:
        return OwnPart("data", "source", (), names_in(DataConfig, "source"))


class DigitsConfig(Section):
    """1,797 handwritten digits of 8 x 8 pixels that come with the package."""

    source: Literal["digits"] = "digits"


class ShapesConfig(Section):
    """Coloured shapes drawn on demand: any size, any number, labels and class maps."""

    source: Literal["shapes"] = "shapes"
    count: Size = 10_000
    """Number of images in the split `train`."""
    test_count: Size = 1_000
    """Number of images in the split `test`."""
    seed: NonNegativeInt = 0
    """Seed of the shapes; another seed gives other shapes."""


class TorchvisionSection(Section):
    """Settings shared by the sources that torchvision reads."""

    validation: Annotated[int, Field(ge=0, le=2**24)] = 0
    """How many images at the end of `train` become the split `test`; the others are `train`."""
    added: ClassVar[tuple[str, ...]] = ("validation",)


class CIFAR10Config(TorchvisionSection):
    """CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels."""

    source: Literal["cifar10"] = "cifar10"
    root: str = "data"
    """The folder that holds cifar-10-batches-py/."""
    download: bool = False
    """Download the images if they are missing."""


class MNISTConfig(TorchvisionSection):
    """MNIST: 60,000 + 10,000 grey images of 28 x 28 pixels."""

    source: Literal["mnist"] = "mnist"
    root: str = "data"
    """The folder that holds MNIST/raw/."""
    download: bool = False
    """Download the images if they are missing."""


class FashionMNISTConfig(TorchvisionSection):
    """Fashion-MNIST: 60,000 + 10,000 grey images of 28 x 28 pixels."""

    source: Literal["fashion-mnist"] = "fashion-mnist"
    root: str = "data"
    """The folder that holds FashionMNIST/raw/."""
    download: bool = False
    """Download the images if they are missing."""


class FolderConfig(Section):
    """Any folder of image files, flat or with one subfolder per class."""

    source: Literal["folder"] = "folder"
    root: str
    """The folder of images."""
    holdout: Holdout = 0.1
    """The share that becomes the split `test` if the folder has no test/ or val/."""
    train: str = ""
    """The subfolder of the split `train`; `.`: all of `root`, except for that of `test`; empty:
    found by its name."""
    test: str = ""
    """The subfolder of the split `test`; empty: found by its name, unless `train` is given."""
    added: ClassVar[tuple[str, ...]] = ("train", "test")


class MasksConfig(Section):
    """Images and their label maps in two folders, in pairs of the same name.

    A tokenizer of label maps reads the masks, any other the images, in the same order.
    """

    source: Literal["masks"] = "masks"
    images: str
    """The folder of images."""
    masks: str
    """The folder of label maps."""
    holdout: Holdout = 0.1
    """The share that becomes the split `test`, as for `folder`."""


class TableConfig(Section):
    """Image files that a CSV (with a header line) or JSONL file lists, with labels or without."""

    source: Literal["table"] = "table"
    file: str
    """The table, .csv or .jsonl."""
    root: str = ""
    """The folder that paths are relative to; empty: the folder of the file."""
    image: str = "image"
    """The column of paths."""
    label: str = "label"
    """The column of labels; empty: no labels."""
    splits: str = ""
    """The column of splits; empty: a column `split`, `splits` or `set`, or else `holdout`."""
    holdout: Holdout = 0.1
    """The share that becomes the split `test` if there is no column of splits."""


class WebDatasetConfig(Section):
    """Tars of images in WebDataset form: members that differ only in extension form a sample."""

    source: Literal["webdataset"] = "webdataset"
    shards: PlaceOrUrl
    """Tars: a file, glob, brace pattern or URL."""
    test: PlaceOrUrl = ""
    """Tars of the split `test`; empty: found by the tars' names, or `holdout` decides."""
    image: str = ""
    """The extension of images, or its last part; empty: any, with one image per sample."""
    label: str = "cls"
    """The extension of labels, or its last part; without a `cls`, a `json` may hold the label."""
    holdout: Holdout = 0.1
    """The share that becomes the split `test` if `test` is empty."""


class HuggingFaceConfig(Section):
    """A dataset of the Hugging Face `datasets` library, local or on the Hub."""

    source: Literal["huggingface"] = "huggingface"
    name: str
    """A folder, or user/name[@revision] on the Hub."""
    subset: str = ""
    """The name of a configuration of the dataset; empty: its only one."""
    image: str = "image"
    """The column of images."""
    label: str = "label"
    """The column of labels; empty: no labels."""
    holdout: Holdout = 0.1
    """The share that becomes the split `test` if the source has no such split."""


class CelebAConfig(Section):
    """CelebA's aligned faces: 162,770 + 19,867 + 19,962 of 178 x 218 pixels, unlabelled."""

    source: Literal["celeba"] = "celeba"
    root: str = "data"
    """The folder that holds celeba/."""


class LSUNConfig(Section):
    """One category of LSUN scenes: 126,227 + 300 of church_outdoor, short side 256, unlabelled."""

    source: Literal["lsun"] = "lsun"
    root: str = "data"
    """The folder that holds church_outdoor_train_lmdb/ and ..._val_lmdb/."""
    category: str = "church_outdoor"
    """The category of scenes."""


class KaokoreConfig(Section):
    """Kaokore's faces of 256 x 256 pixels with their gender or status."""

    source: Literal["kaokore"] = "kaokore"
    root: str = "data/kaokore"
    """The folder that holds labels.csv and images_256/."""
    label: Literal["gender", "status"] = "gender"
    """Which of its two labels to read."""


TorchvisionConfig = CIFAR10Config | MNISTConfig | FashionMNISTConfig
OwnImagesConfig = FolderConfig | MasksConfig | TableConfig | WebDatasetConfig | HuggingFaceConfig
DataConfig = Annotated[
    DigitsConfig
    | ShapesConfig
    | TorchvisionConfig
    | CelebAConfig
    | LSUNConfig
    | KaokoreConfig
    | OwnImagesConfig
    | DataSection,
    OrRegistered(DataSection),
]
"""The section of any data source: one of imagetok's, or one that is registered."""

_SOURCES: dict[str, type[Section]] = {
    "digits": DigitsConfig,
    "shapes": ShapesConfig,
    "cifar10": CIFAR10Config,
    "mnist": MNISTConfig,
    "fashion-mnist": FashionMNISTConfig,
    "celeba": CelebAConfig,
    "lsun": LSUNConfig,
    "kaokore": KaokoreConfig,
    "folder": FolderConfig,
    "masks": MasksConfig,
    "table": TableConfig,
    "webdataset": WebDatasetConfig,
    "huggingface": HuggingFaceConfig,
}
_WITHOUT_VAL = ("digits", "shapes", "cifar10", "mnist", "fashion-mnist")
_TABLES = (".csv", ".jsonl", ".tar")
_ALL_BY_DEFAULT = ("folder", "masks", "table", "webdataset")


def splits_of(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the splits that a source can have."""
    if isinstance(config, DataSection):
        return config.splits
    known = ("train", "test", "all")
    return known if config.source in _WITHOUT_VAL else ("train", "val", "test", "all")


def known_split(config: DataConfig, split: str) -> str:
    """Return the source's name of a split, such as `val` for `validation`; see `split_of`.

    Raises ConfigError, with the nearest known name, if the source does not have the split.
    """
    known = splits_of(config)
    for name in (split, split_of(split)):
        if name in known:
            return name
    raise ConfigError(
        f"{config.source}: expected one of the splits {', '.join(known)}; "
        f"found {shown(split)}{did_you_mean(split, known)}"
    )


def parse_spec(text: str) -> tuple[DataConfig, str]:
    r"""Parse a spec `SOURCE[:SPLIT][,key=value...]` or a path of images to config and split.

    A path is a folder, a table (.csv, .jsonl) or a tar (.tar), without split or options. The
    default split is `all` for folders, tables and tars, and `train` for other sources. In a value,
    `\,` stands for a comma and `\\` for a backslash.

    >>> parse_spec("shapes:test,seed=7")
    (ShapesConfig(source='shapes', count=10000, test_count=1000, seed=7), 'test')

    Raises ConfigError for an unknown source, split or key, with the nearest known name.
    """
    source = re.split("[:,]", text, maxsplit=1)[0]
    section = _SOURCES.get(source) or _registered(source, is_only=source == text)
    if section is None:
        if text.endswith(_TABLES[:2]):
            return TableConfig(file=text), "all"
        if text.endswith(".tar"):
            return WebDatasetConfig(shards=text), "all"
        if text and ("/" in source or _is_folder(text)):
            return FolderConfig(root=text), "all"
        known = [*_SOURCES, *(own.name for own in registered("data"))]
        raise ConfigError(
            f"data {shown(text)}: expected one of {', '.join(known)}, or a path; "
            f"found {shown(source)}{hint_for(source, known)}"
        )
    head, *options = split_at_commas(text)
    split = head.partition(":")[2] if ":" in head else None
    config: Any = validate(_tree(options, text), section, f"data {text!r}")
    split = ("all" if source in _ALL_BY_DEFAULT else "train") if split is None else split
    return config, known_split(config, split)


def names_split(text: str) -> bool:
    """Return whether a spec names its split, so that it is not the default one."""
    return ":" in split_at_commas(text)[0]


def _registered(source: str, *, is_only: bool) -> type[Section] | None:
    """The section of a registered source; a path that is there goes before a mere name."""
    if "/" in source or (is_only and (source.endswith(_TABLES) or _is_folder(source))):
        return None
    found = find("data", source)
    return None if found is None else found.config


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name that is too long, or no such user
        return False


def describe(config: DataConfig, split: str) -> str:
    """Return the canonical spec of a config and split: options in order, without defaults.

    `parse_spec` returns the same config and split for it, except that secrets are removed from
    URLs.
    """
    options = config.model_dump(mode="json", exclude_defaults=True, exclude={"source"})
    return ",".join([f"{config.source}:{split}", *(f"{k}={_text(v)}" for k, v in options.items())])


def _tree(options: list[str], text: str) -> dict[str, str]:
    tree = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise ConfigError(f"data {text!r}: expected key=value after a comma, found {option!r}")
        if key == "source" or key in tree:
            raise ConfigError(f"data {text!r}: expected {key} once, found it again in {option!r}")
        tree[key] = value
    return tree


def split_at_commas(text: str) -> list[str]:
    r"""Split a text at its commas; `\,` stands for a comma and `\\` for a backslash.

    >>> split_at_commas(r"a,b\,c")
    ['a', 'b,c']
    """
    pieces = [[]]
    for token in re.findall(r"\\.|.", text, flags=re.DOTALL):
        if token == ",":
            pieces.append([])
        else:
            pieces[-1].append(token[1:] if len(token) == 2 else token)
    return ["".join(piece) for piece in pieces]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return re.sub(r"([\\,])", r"\\\1", str(value))
