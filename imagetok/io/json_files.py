"""The JSON files that imagetok writes, as they are read: bounded, typed, and refused by name."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StrictFloat, StrictInt
from pydantic_core import from_json

from imagetok.config import Section, validate
from imagetok.errors import ConfigError, InputError
from imagetok.io.regular_files import FileError, read_regular

MAX_BYTES = 256 << 20
Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
"""A whole number from 0 on that every reader of JSON takes exactly."""
Measure = Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)] | StrictFloat
"""A finite number."""
S = TypeVar("S", bound=Section)


def parse_json(data: bytes, where: str, error: type[InputError] = InputError) -> Any:
    """Plain data of JSON text: finite numbers, UTF-8, at most 200 levels deep.

    Raises `error`, which names `where`, for anything else.
    """
    try:
        return from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as fault:
        reason = "nested too deep" if "recursion" in str(fault) else str(fault)
        raise error(f"{where}: damaged, it is not JSON as imagetok writes it ({reason})") from None


def read_json(path: Path, error: type[InputError] = InputError, max_bytes: int = MAX_BYTES) -> Any:
    """The plain data of a JSON file of at most `max_bytes`.

    Raises `error` where it is missing, too large or damaged, and OSError where it cannot be read.
    """
    try:
        return parse_json(read_regular(path, max_bytes), str(path), error)
    except FileError as fault:
        raise error(str(fault)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: missing") from None
    except IsADirectoryError:
        raise error(f"{path}: expected a file, found a folder") from None


def read_section(path: Path, cls: type[S], error: type[InputError] = InputError) -> S:
    """A JSON file as the typed section that it holds; raises what `read_json` raises."""
    return as_section(read_json(path, error), cls, str(path), error)


def as_section(tree: Any, cls: type[S], where: str, error: type[InputError] = InputError) -> S:
    """Plain data as a typed section; `error` names `where` and every value that does not fit."""
    if not isinstance(tree, dict):
        raise error(f"{where}: damaged, expected an object, found {type(tree).__name__}")
    try:
        return validate(tree, cls, where)
    except ConfigError as fault:
        raise error(f"{fault}; damaged, or made by another version of imagetok") from None
