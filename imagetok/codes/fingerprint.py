"""Checking that codes and whatever reads them belong together: by fingerprint, and by grid."""

from collections.abc import Sequence

from imagetok.code_maps import grids_shown
from imagetok.errors import ShardError


def check_same_tokenizer(
    place: str, found: str, expected: str, whose: str, remedy: str, *, name: str = ""
) -> None:
    """Raise ShardError when codes, or what reads them, belong to another tokenizer.

    place: the file or folder that is checked. found, expected: fingerprints. whose: what the
    expected fingerprint belongs to. remedy: how to fix it. name: name of the found tokenizer. The
    texts are used in the message.
    """
    if found != expected:
        named = f" ({name})" if name else ""
        raise ShardError(
            f"{place}: belongs to tokenizer {found[:16]}{named}, but {whose} is {expected[:16]}; "
            f"{remedy}"
        )


def check_same_grids(
    place: str,
    found: Sequence[tuple[int, int]],
    expected: Sequence[tuple[int, int]],
    whose: str,
) -> None:
    """Raise ShardError for codes of images of another size than those that they meet.

    place: the code dataset. found, expected: (h, w) of each level. whose: what the expected grids
    belong to, for the message.
    """
    if tuple(found) != tuple(expected):
        raise ShardError(
            f"{place}: expected codes of {grids_shown(expected)}, the grid {whose}, found "
            f"{grids_shown(found)}; encode the images with the --size of the others, or train a "
            "prior on codes of this grid"
        )
