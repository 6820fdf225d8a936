"""Image sources: datasets that return uint8 batches in the form of a tokenizer's contract."""

from typing import assert_never

from imagetok.data.base import NO_LABEL, ArrayImages, ImageBatch, ImageDataset
from imagetok.data.checked_images import CheckedImages
from imagetok.data.compressed_images import CompressedImages, FileImages
from imagetok.data.config import (
    CelebAConfig,
    CIFAR10Config,
    DataConfig,
    DataSection,
    DigitsConfig,
    FashionMNISTConfig,
    FolderConfig,
    HuggingFaceConfig,
    KaokoreConfig,
    LSUNConfig,
    MasksConfig,
    MNISTConfig,
    ShapesConfig,
    TableConfig,
    WebDatasetConfig,
    describe,
    known_split,
    parse_spec,
)
from imagetok.data.digits import open_digits
from imagetok.data.faces import open_celeba, open_kaokore
from imagetok.data.folder import open_folder
from imagetok.data.huggingface import open_huggingface
from imagetok.data.image_decoding import ImageError, open_image
from imagetok.data.label_maps import open_masks
from imagetok.data.lsun import open_lsun
from imagetok.data.preprocessing import preprocess, preprocess_batch
from imagetok.data.shapes import Shapes, open_shapes
from imagetok.data.table import open_table
from imagetok.data.webdataset_tars import open_tars
from imagetok.images import ImageContract
from imagetok.plugins.sections import build_registered, described, registration_of

__all__ = [
    "NO_LABEL",
    "ArrayImages",
    "CIFAR10Config",
    "CelebAConfig",
    "CompressedImages",
    "DataConfig",
    "DataSection",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FileImages",
    "FolderConfig",
    "HuggingFaceConfig",
    "ImageBatch",
    "ImageDataset",
    "ImageError",
    "KaokoreConfig",
    "LSUNConfig",
    "MNISTConfig",
    "MasksConfig",
    "Shapes",
    "ShapesConfig",
    "TableConfig",
    "WebDatasetConfig",
    "describe",
    "open_image",
    "open_images",
    "parse_spec",
    "preprocess",
    "preprocess_batch",
]


def open_images(  # noqa: C901 (one case a source)
    config: DataConfig, split: str, contract: ImageContract
) -> ImageDataset:
    """Open the images of one split, in the size, mode and preprocessing of `contract`.

    config: the data source.
    split: train, test or all; some sources also have val.
    contract: the form of the images, such as a tokenizer's `image`.
    Raises ConfigError for an unknown split, InputError if images are missing or damaged,
    ResourceError if a download fails or a library is missing.
    """
    split = known_split(config, split)
    match config:
        case DigitsConfig():
            return open_digits(split, contract)
        case ShapesConfig():
            return open_shapes(
                split,
                contract,
                count=config.count,
                test_count=config.test_count,
                seed=config.seed,
            )
        case CIFAR10Config() | MNISTConfig() | FashionMNISTConfig():
            # Imported here, because torchvision takes a second to import.
            from imagetok.data.torchvision_sets import open_torchvision

            return open_torchvision(config, split, contract)
        case FolderConfig():
            return open_folder(
                config.root,
                split,
                contract,
                holdout=config.holdout,
                train=config.train,
                test=config.test,
            )
        case MasksConfig():
            return open_masks(config, split, contract)
        case CelebAConfig():
            return open_celeba(config, split, contract)
        case LSUNConfig():
            return open_lsun(config, split, contract)
        case KaokoreConfig():
            return open_kaokore(config, split, contract)
        case TableConfig():
            return open_table(config, split, contract)
        case WebDatasetConfig():
            return open_tars(config, split, contract)
        case HuggingFaceConfig():
            return open_huggingface(config, split, contract)
        case DataSection():
            return _open_registered(config, split, contract)
        case _:
            assert_never(config)


def _open_registered(config: DataSection, split: str, contract: ImageContract) -> ImageDataset:
    dataset = build_registered(config, ImageDataset, config, split, contract)
    return CheckedImages(dataset, described(registration_of(config)), split, contract)
