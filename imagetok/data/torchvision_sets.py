"""CIFAR-10, MNIST and Fashion-MNIST, read into memory with torchvision."""

from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torchvision import datasets

from imagetok.data.base import ArrayImages
from imagetok.data.config import (
    CIFAR10Config,
    FashionMNISTConfig,
    MNISTConfig,
    TorchvisionConfig,
)
from imagetok.data.preprocessing import preprocess_batch
from imagetok.errors import InputError, ResourceError
from imagetok.images import ImageContract


def open_torchvision(config: TorchvisionConfig, split: str, contract: ImageContract) -> ArrayImages:
    """Open split train, test, or all (train followed by test).

    With `config.validation` only torchvision's training images are used: test is the last
    `validation` of them, train the others, and all is all of them. Raises InputError if the files
    are missing or damaged or no training images are left, ResourceError if a download fails.
    """
    parts = [_load(config, part) for part in _parts(config, split)]
    pixels = np.concatenate([np.asarray(part.data) for part in parts])
    labels = np.concatenate([np.asarray(part.targets) for part in parts])
    chosen = slice(None)
    if config.validation:
        first = len(pixels) - config.validation
        if first < 1:
            raise InputError(
                f"{config.source}: validation: expected fewer than the {len(pixels):,} training "
                f"images, found {config.validation:,}"
            )
        chosen = {"train": slice(first), "test": slice(first, None), "all": slice(None)}[split]
    return ArrayImages(
        preprocess_batch(pixels[chosen], contract),
        torch.from_numpy(labels[chosen].astype(np.int64)),
        name=config.source,
        split=split,
        contract=contract,
        class_names=tuple(parts[0].classes),
    )


def _parts(config: TorchvisionConfig, split: str) -> tuple[str, ...]:
    if config.validation:
        return ("train",)
    return ("train", "test") if split == "all" else (split,)


def _load(config: TorchvisionConfig, part: str) -> Any:
    """Load torchvision's dataset; CIFAR-10 is unpickled only after torchvision checked its md5."""
    match config:
        case CIFAR10Config():
            kind, folder = datasets.CIFAR10, "cifar-10-batches-py"
        case MNISTConfig():
            kind, folder = datasets.MNIST, "MNIST/raw"
        case FashionMNISTConfig():
            kind, folder = datasets.FashionMNIST, "FashionMNIST/raw"
        case _:
            assert_never(config)
    root = Path(config.root).expanduser()
    try:
        return kind(root, train=part == "train", download=config.download)
    except Exception as error:  # torchvision raises exceptions of many kinds
        if config.download:
            raise ResourceError(
                f"{config.source}: the download into {root} failed ({error}); try again, "
                f"or put {folder}/ under {root}"
            ) from None
        found = f"files that are incomplete or damaged ({error})"
        raise InputError(
            f"{config.source}: expected its files in {root / folder}, "
            f"found {found if (root / folder).is_dir() else 'no such folder'}; "
            f"add download=true (in a config: --set data.download=true), or put {folder}/ under "
            f"{root}"
        ) from None
