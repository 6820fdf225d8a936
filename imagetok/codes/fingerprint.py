"""Checking that codes and whatever reads them belong to the same tokenizer, by fingerprint."""

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
