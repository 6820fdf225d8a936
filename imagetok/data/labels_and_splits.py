"""Numbering labels that are written as names or numbers, and splitting off a test set."""

from collections.abc import Callable, Sequence

import torch

from imagetok.data.base import NO_LABEL
from imagetok.errors import InputError
from imagetok.seeding import generator

MAX_CLASSES = 1 << 16
_NONE = ("", str(NO_LABEL))


def number_labels(
    values: Sequence[str], where: Callable[[int], str]
) -> tuple[list[int], tuple[str, ...]]:
    """Convert labels in text form to integers; return these and the class names.

    Empty text and -1 become NO_LABEL. If all others are whole numbers, these are the labels, and
    the classes are 0 to the largest; otherwise each is a class name, and the classes are the sorted
    names. where: returns the location of value i, for messages. Raises InputError for a number
    above 65,535.
    """
    named = {value for value in values if value not in _NONE}
    if not all(value.isascii() and value.isdigit() for value in named):
        number = {name: label for label, name in enumerate(sorted(named))}
        return [number.get(value, NO_LABEL) for value in values], tuple(number)
    labels = [
        NO_LABEL if value in _NONE else int((value.lstrip("0") or "0")[:9]) for value in values
    ]
    largest = max(labels, default=NO_LABEL)
    if largest >= MAX_CLASSES:
        raise InputError(
            f"{where(labels.index(largest))}: expected a label below {MAX_CLASSES:,}, found "
            f"{values[labels.index(largest)]}; if these are names, put a letter in front of them"
        )
    return labels, tuple(str(label) for label in range(largest + 1))


def split_indices(count: int, split: str, holdout: float, where: str) -> list[int]:
    """Return the sorted indices of split train or test of `count` images; each has at least one.

    holdout: fraction of the images in the test split. The split depends only on `count` and
    `holdout`. where: the source, for messages. Raises InputError for fewer than two images.
    """
    if count < 2:
        raise InputError(
            f"{where}: expected at least 2 images for splits train and test, found {count}; use "
            "split all"
        )
    num_test = min(max(1, round(count * holdout)), count - 1)
    order = torch.randperm(count, generator=generator(0, "folder split")).tolist()
    return sorted(order[:num_test] if split == "test" else order[num_test:])
