"""What labels and splits mean in every source: numbers or names of classes, and names of splits."""

import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import PurePosixPath

import torch

from imagetok.data.base import NO_LABEL
from imagetok.errors import ConfigError, InputError
from imagetok.seeding import generator
from imagetok.suggestions import are, counted, did_you_mean, shown

MAX_CLASSES = 1 << 16
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Split -> the names that sources give it, in lower case; see `split_of`."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,9})?", re.ASCII | re.IGNORECASE)


def label_text(value: object) -> str:
    """Return a label of any type as the text that `number_labels` reads; "" for None."""
    return "" if value is None else str(value)


def whole_number(text: str) -> int | None:
    """Return the integer that a text spells, up to 65,536 in size; None if it spells none.

    >>> [whole_number(text) for text in (" 3", "3.0", "+3", "003", "3e0", "3.5", "three")]
    [3, 3, 3, 3, 3, None, None]
    """
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    if not -MAX_CLASSES <= number <= MAX_CLASSES:  # written out, 1e999999999 would fill the memory
        return int(math.copysign(MAX_CLASSES, number))
    return int(number) if number == number.to_integral_value() else None


def number_labels(
    values: Sequence[str], where: Callable[[int], str]
) -> tuple[list[int], tuple[str, ...]]:
    """Convert labels in text form to integers; return these and the class names.

    Empty text, `nan` and -1 become NO_LABEL; spaces around a label are ignored. If all others are
    whole numbers, in any spelling (`3`, `3.0`, `+3`, `3e0`), these are the labels, and the classes
    are 0 to the largest. If none is, each is a class name, and the classes are the sorted names.
    where: returns the location of value i, for messages. Raises InputError for words among
    numbers, and for a number below -1 or above 65,535.
    """
    texts = [value.strip() for value in values]
    numbers = {text: NO_LABEL if is_missing(text) else whole_number(text) for text in set(texts)}
    words = sorted(text for text, number in numbers.items() if number is None)
    if words and all(number in (None, NO_LABEL) for number in numbers.values()):
        label_of = {name: label for label, name in enumerate(words)}
        return [label_of.get(text, NO_LABEL) for text in texts], tuple(words)
    if words:
        _refuse_mixture(texts, numbers, where)
    labels = [number for text in texts if (number := numbers[text]) is not None]
    wrong = next((i for i, n in enumerate(labels) if not NO_LABEL <= n < MAX_CLASSES), None)
    if wrong is not None:
        raise InputError(
            f"{where(wrong)}: expected a label below {MAX_CLASSES:,}, or -1 for none, found "
            f"{shown(values[wrong])}; if these are names, put a letter in front of them"
        )
    return labels, tuple(str(label) for label in range(max(labels, default=NO_LABEL) + 1))


def is_missing(text: str) -> bool:
    """Return whether a label in text form stands for none: empty text, or nan."""
    return text.strip().lower() in ("", "nan")


def _refuse_mixture(
    texts: list[str], numbers: Mapping[str, int | None], where: Callable[[int], str]
) -> None:
    """Raise InputError for labels of which some are whole numbers and others are words."""
    words = [i for i, text in enumerate(texts) if numbers[text] is None]
    found = [i for i, text in enumerate(texts) if numbers[text] not in (None, NO_LABEL)]
    if len(words) <= len(found):
        few, others, expected = words, found, "a whole number"
    else:
        few, others, expected = found, words, "a name"
    more = f" (and {len(few) - 1:,} more)" if len(few) > 1 else ""
    raise InputError(
        f"{where(few[0])}: expected {expected}, as {counted(len(others), 'other label')} "
        f"{are(len(others))}, found {shown(texts[few[0]])}{more}; correct it, "
        "leave it empty if the image has no label, or, if numbers are names too, put a letter in "
        "front of all of them"
    )


def split_of(name: str) -> str | None:
    """Return the split train, val or test that a name means, in any case; None for other names.

    >>> [split_of(name) for name in ("Training", "valid", "dev", "TEST", "cats")]
    ['train', 'val', 'val', 'test', None]
    """
    plain = name.strip().lower()
    return next((split for split, names in SPLIT_NAMES.items() if plain in names), None)


def named_splits(names: Iterable[str], where: str, remedy: str) -> dict[str, str]:
    """Return split -> name for the names that mean a split; see `split_of`.

    where: the source, and remedy: what the user can do, for messages. Raises InputError for two
    names of one split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is not None and found.setdefault(split, name) != name:
            raise InputError(
                f"{where}: expected one name of the split {split}, found {found[split]!r} and "
                f"{name!r}; {remedy}"
            )
    return found


def splits_in_paths(files: Sequence[str]) -> list[str]:
    """Return the folder of each file that names its split; empty unless all files have one.

    These are the folders just below the folder that all files have in common, such as train and
    val of `photos/train/cat/1.jpg` and `photos/val/cat/2.jpg`. There must be two splits or more.
    """
    folders = {file.rpartition("/")[0] for file in files}
    if len({folder.startswith("/") for folder in folders}) != 1:
        return []
    depth = len(PurePosixPath(posixpath.commonpath(folders)).parts)
    part_of = {folder: (*PurePosixPath(folder).parts[depth:], "")[0] for folder in folders}
    splits = {split_of(part) for part in part_of.values()}
    if None in splits or len(splits) < 2:
        return []
    return [part_of[file.rpartition("/")[0]] for file in files]


def members_by_split(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of the images of each split.

    names: a name of its split for each image; other names are left out.
    """
    kind = {name: split_of(name) for name in set(names)}
    parts: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if (part := kind[name]) is not None:
            parts.setdefault(part, []).append(i)
    return parts


def split_members(
    parts: Mapping[str, Sequence[int]], split: str, holdout: float, where: str
) -> list[int]:
    """Return the indices of the images of a split.

    parts: the indices of each split that the source has; for a source without splits, all of them
    as `train`. Split test is val if there is no test; where there is neither, the fraction
    `holdout` of train becomes test. Raises ConfigError for a split that the source does not have.
    """
    if split == "all":
        return sorted(index for part in parts.values() for index in part)
    if split in ("train", "test") and "train" in parts and parts.keys().isdisjoint({"val", "test"}):
        train = parts["train"]
        return [train[i] for i in split_indices(len(train), split, holdout, where)]
    return list(parts[actual_split(parts, split, where)])


def actual_split(parts: Iterable[str], split: str, where: str) -> str:
    """Return which of `parts` is meant by a split: test is val if there is no test.

    Raises ConfigError for a split that is not there.
    """
    there = list(parts)
    wanted = "val" if split == "test" and "test" not in there else split
    if wanted not in there:
        stands_in = "test" not in there and ("val" in there or "train" in there)
        known = [*there, *(["test"] if stands_in else []), "all"]
        raise ConfigError(
            f"{where}: expected one of the splits {', '.join(known)}; "
            f"found {split!r}{did_you_mean(split, known)}"
        )
    return wanted


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
