"""Codes belong to the tokenizer that made them: its fingerprint goes where they go."""

from imagetok.errors import ShardError


def check_same_tokenizer(
    place: str, found: str, expected: str, whose: str, remedy: str, *, name: str = ""
) -> None:
    """Refuse codes, or what reads them, of another tokenizer with ShardError.

    place: what is refused. found, expected: fingerprints. whose: what the expected one belongs to.
    remedy: how to fix it. name: of the tokenizer that was found, only for people.
    """
    if found != expected:
        named = f" ({name})" if name else ""
        raise ShardError(
            f"{place}: belongs to tokenizer {found[:16]}{named}, but {whose} is {expected[:16]}; "
            f"{remedy}"
        )
