"""Images from anywhere, brought to a tokenizer's contract as uint8 batches."""

from typing import assert_never

from imagetok.data.base import NO_LABEL, ArrayImages, ImageBatch, ImageDataset
from imagetok.data.config import (
    CIFAR10Config,
    DataConfig,
    DigitsConfig,
    FashionMNISTConfig,
    FolderConfig,
    MNISTConfig,
    ShapesConfig,
    check_split,
    describe,
    parse_spec,
)
from imagetok.data.digits import open_digits
from imagetok.data.folder import FolderImages, open_folder
from imagetok.data.open import ImageError, open_image
from imagetok.data.shapes import Shapes, open_shapes
from imagetok.data.transforms import prepare, prepare_batch
from imagetok.images import ImageContract

__all__ = [
    "NO_LABEL",
    "ArrayImages",
    "CIFAR10Config",
    "DataConfig",
    "DigitsConfig",
    "FashionMNISTConfig",
    "FolderConfig",
    "FolderImages",
    "ImageBatch",
    "ImageDataset",
    "ImageError",
    "MNISTConfig",
    "Shapes",
    "ShapesConfig",
    "describe",
    "open_image",
    "open_images",
    "parse_spec",
    "prepare",
    "prepare_batch",
]


def open_images(config: DataConfig, split: str, contract: ImageContract) -> ImageDataset:
    """The images of one split, in the form that `contract` asks for.

    split: train, test or all; a folder laid out in splits may have val too.
    Raises ConfigError for an unknown split, InputError if the images are missing or damaged.
    """
    check_split(config, split)
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
            # torchvision takes a second to import, and few need it.
            from imagetok.data.torchvision_sets import open_torchvision

            return open_torchvision(config, split, contract)
        case FolderConfig():
            return open_folder(config.root, split, contract, holdout=config.holdout)
        case _:
            assert_never(config)
