"""Opening the images that a caller passes: path, spec, config, Dataset, PIL images or arrays."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from imagetok.config import Section
from imagetok.data import DataConfig, FileImages, describe, open_images, parse_spec
from imagetok.data.base import ImageDataset
from imagetok.data.class_names import both_lists
from imagetok.data.config import known_split, names_split
from imagetok.data.in_memory import ItemImages, split_item
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract

logger = logging.getLogger("imagetok")
ImageInput = Path | str | Section | Dataset[Any] | Tensor | np.ndarray | Sequence[Any] | Image.Image
"""Everything that functions accept as images; see `open_inputs`."""


class OpenedImages(NamedTuple):
    """Images in the form of a contract, and the name of their source for records."""

    dataset: ImageDataset
    source: str


def open_inputs(
    data: ImageInput,
    contract: ImageContract,
    split: str | None = None,
    *,
    identity: str | None = None,
    class_names: Sequence[str] | None = None,
) -> OpenedImages:
    """Open images and bring them to the size, mode and preprocessing of `contract`.

    data: one of
    - a spec such as `digits:test`, or the path of a folder, table or tar (see `parse_spec`);
    - a data config, of which `split` is opened (default: train);
    - an array or tensor of shape (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floating point
      in [0, 1]; if both layouts fit, channels are the last axis of an array and dim 1 of a tensor;
    - a list of PIL images, arrays, tensors or paths, or one PIL image;
    - your own map-style Dataset, whose items are images or start with an image and its label;
    - an ImageDataset of imagetok that already has the mode and size of the contract.

    identity: any text that changes when the images of your Dataset change; by default a hash of
    some of its items (see `ItemImages.identity`).
    class_names: class names of your Dataset, by label; default: its attribute `classes`; () ignores
    the labels.
    Raises ConfigError or InputError for anything else.
    """
    if isinstance(data, Path | str | Section | ImageDataset) and (identity, class_names) != (
        None,
        None,
    ):
        raise ConfigError(
            "identity, class_names: expected arrays, a list or your own Dataset with these "
            f"options, found {type(data).__name__}; leave them out"
        )
    if isinstance(data, Path | str):
        config, split = parse_spec(str(data))
        return OpenedImages(open_images(config, split, contract), describe(config, split))
    if isinstance(data, Section):
        if not hasattr(data, "source"):
            raise ConfigError(f"data: expected a data config, found {type(data).__name__}")
        config = cast(DataConfig, data)
        split = known_split(config, split or "train")
        return OpenedImages(open_images(config, split, contract), describe(config, split))
    if isinstance(data, ImageDataset):
        _check_form(data, contract)
        return OpenedImages(data, f"{data.name}:{data.split}")
    dataset = _held(data, contract, identity, class_names)
    return OpenedImages(dataset, f"{dataset.name}:{dataset.split}")


def warn_of_training_images(data: ImageInput, source: str) -> None:
    """Warn if `data` names no split, and what is measured is therefore the split `train`.

    source: the canonical spec of `data`, as `open_inputs` returns it.
    """
    is_named = isinstance(data, Path | str) and names_split(str(data))
    if not is_named and source.partition(",")[0].endswith(":train"):
        logger.warning(
            "%s: these are the training images, because no split is named; for held-out images "
            "use %s",
            source,
            source.replace(":train", ":test", 1),
        )


def _check_form(data: ImageDataset, contract: ImageContract) -> None:
    sides = (contract.mode, contract.height, contract.width)
    found = (data.contract.mode, data.contract.height, data.contract.width)
    if found != sides:
        raise InputError(
            f"{data.name}:{data.split}: expected {_form(*sides)}, because the tokenizer requires "
            f"them, found {_form(*found)}; open the images with the tokenizer's contract, "
            "tokenizer.image"
        )


def _form(mode: str, height: int, width: int) -> str:
    return f"{mode} images of {width} x {height} pixels"


def _held(
    data: Any,
    contract: ImageContract,
    identity: str | None,
    class_names: Sequence[str] | None,
) -> ImageDataset:
    """Wrap images in memory, or the caller's Dataset, as an ImageDataset."""
    if isinstance(data, Image.Image):
        data = [data]
    if isinstance(data, Tensor | np.ndarray):
        if data.ndim not in (3, 4) or _is_one_image(data, contract):
            raise InputError(
                "expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), found "
                f"{tuple(data.shape)}; pass one image as image[None], and grey ones as (N, 1, H, W)"
            )
        return ItemImages(data, name="arrays", contract=contract, identity=identity)
    if isinstance(data, list | tuple) and data and isinstance(data[0], Path | str):
        files = [str(file) for file in data]
        return FileImages(Path(), files, name="files", split="all", contract=contract)
    if isinstance(data, IterableDataset | DataLoader) or not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict)
    ):
        raise InputError(
            "expected images: a path, a spec, a Dataset with __len__ and __getitem__, a list of "
            f"PIL images, or arrays; found {type(data).__module__}.{type(data).__qualname__}"
        )
    names = _class_names(data) if class_names is None else tuple(class_names)
    is_list = isinstance(data, list | tuple)
    return ItemImages(
        data,
        name="images" if is_list else type(data).__name__,
        contract=contract,
        class_names=names,
        identity=identity,
        is_sampled=not is_list,
    )


def _is_one_image(data: Tensor | np.ndarray, contract: ImageContract) -> bool:
    """Return whether data of three axes is one image with channels, not several without."""
    if data.ndim != 3 or contract.mode == "labels":
        return False
    return data.shape[-1] in (3, 4) or (data.shape[0] in (3, 4) and isinstance(data, Tensor))


def _names_of_parts(dataset: Any) -> Iterator[tuple[str, ...] | None]:
    """Yield the attribute `classes` of each Dataset that a Dataset consists of; None without it."""
    if isinstance(dataset, Subset):
        yield from _names_of_parts(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _names_of_parts(part)
    else:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            yield tuple(names)
        else:
            yield None


def _class_names(dataset: Any) -> tuple[str, ...]:
    """Return the class names of a Dataset, by label; () if its items have no labels.

    Raises ConfigError if parts of a ConcatDataset have other classes than its first.
    """
    names, *others = dict.fromkeys(_names_of_parts(dataset))
    if others:
        found = next((other for other in others if other), ())
        raise ConfigError(
            f"{type(dataset).__name__}: expected the same classes in all of its parts: "
            f"{both_lists(found, names or ())}; give them one list of classes, or pass "
            "class_names=[...] if their labels have the same numbers"
        )
    if names is not None:
        return names
    for i in range(len(dataset)):
        try:
            label = split_item(dataset[i])[1]
        except Exception:  # whatever the caller's code raises is counted when the item is read
            continue
        if not isinstance(label, int):  # a text may be a caption
            return ()
        raise ConfigError(
            f"{type(dataset).__name__}: expected class names (an attribute `classes`), because its "
            f"items have labels (the first is {label}), found none; pass class_names=[...] with "
            "one name per class, or class_names=() to ignore the labels"
        )
    return ()
