"""Labels of codes that others made: integers in any spelling, and values for none."""

import numpy as np
from jaxtyping import Int32

from imagetok.data import NO_LABEL
from imagetok.data.labels_and_splits import is_missing, label_text, whole_number
from imagetok.errors import InputError
from imagetok.suggestions import shown

_NEITHER = NO_LABEL - 1
"""Stands for what is neither a class nor missing."""


def whole_labels(
    values: np.ndarray, classes: int, where: str, start: int
) -> Int32[np.ndarray, " n"]:
    """Convert labels to integers; -1, nan, None and empty text become NO_LABEL.

    values: (n,) integers, floats, or text and objects that spell integers (`3`, `3.0`, `+3`, ...).
    classes: number of classes. where, start: the file and the number of its first row, for
    messages. Raises InputError for anything else, with its row.
    """
    numbers = _numbers(values, where)
    wrong = np.flatnonzero(~((numbers >= NO_LABEL) & (numbers < classes)))
    if len(wrong):
        found = shown(values[wrong].tolist()[0])
        raise InputError(
            f"{where}: expected a class in [0, {classes}), or -1, nan or nothing for none, found "
            f"{found} in row {start + int(wrong[0])}; number the classes from 0"
        )
    return numbers.astype("<i4")


def _numbers(values: np.ndarray, where: str) -> np.ndarray:
    """Return labels as numbers, with `_NEITHER` for what is not whole."""
    match values.dtype.kind:
        case "i" | "u":
            return values
        case "f":
            whole = np.where(np.isfinite(values) & (values == np.floor(values)), values, _NEITHER)
            return np.where(np.isnan(values), NO_LABEL, whole)
        case "U" | "O":
            texts = [label_text(value) for value in values.tolist()]
            number_of = {text: _number(text) for text in set(texts)}
            return np.array([number_of[text] for text in texts], dtype=np.int64)
        case _:
            raise InputError(f"{where}: expected whole numbers, found {values.dtype}")


def _number(text: str) -> int:
    number = NO_LABEL if is_missing(text) else whole_number(text)
    return _NEITHER if number is None else number
