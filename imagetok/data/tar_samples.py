"""The samples of a tar: which members belong together, and which are the image and its label."""

import json
from collections.abc import Iterable
from typing import Any

from imagetok.data.file_formats import is_image_name, is_read
from imagetok.data.labels_and_splits import label_text
from imagetok.data.tar_index import TarMember
from imagetok.errors import ConfigError, InputError
from imagetok.suggestions import shown

LABEL_KEYS = ("label", "class", "cls")
"""Keys of a `.json` member that hold the label; the first that is there counts."""
Members = dict[str, TarMember]
"""The members of one sample by their ending, in lower case: what follows the first dot."""


def group_members(members: Iterable[TarMember], where: str) -> dict[str, Members]:
    """Group members whose names are equal up to the first dot of the file name.

    Hidden members and those that start with `__` are left out. where: the tar, for messages.
    Raises InputError for a member that occurs twice.
    """
    grouped: dict[str, Members] = {}
    for member in members:
        folder, _, base = member.name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem or not ending or base.startswith("__"):
            continue
        sample = grouped.setdefault(f"{folder}/{stem}", {})
        if ending.lower() in sample:
            raise InputError(
                f"{where}: expected each member once, found {member.name!r} twice; pack the "
                "tar again"
            )
        sample[ending.lower()] = member
    return grouped


def image_ending(sample: Members, asked: str, where: str, key: str) -> str | None:
    """Return the ending of a sample's image; None if it has none.

    asked: an ending in lower case, whole or the last part of it; empty for any image, of which
    those in a format that imagetok reads come first. Raises ConfigError for several images.
    """
    if asked:
        found = [asked] if asked in sample else _ending_with(asked, sample)
    else:
        images = [ending for ending in sample if is_image_name(f"x.{ending}")]
        found = [ending for ending in images if is_read(f"x.{ending}")] or images
    if len(found) > 1:
        raise ConfigError(
            f"{where}: expected one image per sample, found {', '.join(found)} for {key!r}, whose "
            "names are equal up to the first dot; choose one with image=ENDING, or rename them"
        )
    return found[0] if found else None


def label_member(sample: Members, image: str, asked: str) -> TarMember | None:
    """Return the member with the label of an image; None if the sample has none.

    image, asked: endings in lower case. For `1.jpg` and `cls` it is `1.cls`, `1.jpg.cls` or `cls`.
    """
    before = image.rpartition(".")[0]
    endings = (f"{before}.{asked}" if before else asked, f"{image}.{asked}", asked)
    return next((sample[ending] for ending in endings if ending in sample), None)


def stray_label(sample: Members, asked: str) -> TarMember | None:
    """Return a member that has the ending of labels; None if the sample has none."""
    found = [asked] if asked in sample else _ending_with(asked, sample)
    return sample[found[0]] if found else None


def _ending_with(asked: str, sample: Members) -> list[str]:
    return [ending for ending in sample if ending.endswith(f".{asked}")]


def json_label(text: str, where: str) -> str:
    """Return the label that a `.json` member holds, as text; "" if it holds none.

    It is the value of the first of `LABEL_KEYS` in an object, a number or a name. where: the
    member, for messages. Raises InputError for a text that is not JSON, or another value.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(
            f"{where}: expected JSON, found another text; pack the tar again, or read no labels "
            "with label= (empty)"
        ) from None
    if not isinstance(content, dict):
        return ""
    key = next((key for key in LABEL_KEYS if key in content), None)
    value = None if key is None else content[key]
    if isinstance(value, bool | list | dict):
        raise InputError(
            f"{where}: {key!r}: expected a label, a number or a name, found {shown(value)}; put "
            "the labels into members .cls, or read none with label= (empty)"
        )
    return label_text(value)
