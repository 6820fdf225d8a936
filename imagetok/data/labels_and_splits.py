"""Labels and splits of sources that bring names, numbers or nothing."""

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
    """Labels and class names of written labels; an empty one and -1 are NO_LABEL.

    If all are whole numbers they are the labels, and the classes are 0 to the largest; otherwise
    each is the name of a class, and the classes are the sorted names. where: names value i in a
    message. Raises InputError for a number above 65,535.
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
            f"{values[labels.index(largest)]}; is it a name? Then put a letter in front"
        )
    return labels, tuple(str(label) for label in range(largest + 1))


def split_indices(count: int, split: str, holdout: float, where: str) -> list[int]:
    """The indices of split train or test of `count` images, in order; each gets at least one.

    The same for every source of so many images. Raises InputError for fewer than two.
    """
    if count < 2:
        raise InputError(
            f"{where}: expected at least 2 images to hold some out for testing, "
            f"found {count}; use split all"
        )
    num_test = min(max(1, round(count * holdout)), count - 1)
    order = torch.randperm(count, generator=generator(0, "folder split")).tolist()
    return sorted(order[:num_test] if split == "test" else order[num_test:])
