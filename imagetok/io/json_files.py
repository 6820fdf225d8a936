"""Reading the JSON files that imagetok writes: limited in size, typed, with clear errors."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StrictFloat, StrictInt
from pydantic_core import from_json

from imagetok.config import Section, validate
from imagetok.errors import ConfigError, InputError
from imagetok.io.regular_files import FileError, read_regular

MAX_BYTES = 256 << 20
Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
"""A non-negative integer that every JSON reader represents exactly."""
Measure = Annotated[StrictInt, Field(gt=-(2**63), lt=2**63)] | StrictFloat
"""A finite number."""
S = TypeVar("S", bound=Section)


def parse_json(data: bytes, where: str, error: type[InputError] = InputError) -> Any:
    """Parse JSON in UTF-8 with finite numbers, at most 200 levels deep, to plain data.

    Raises `error`, naming `where`, for anything else.
    """
    try:
        return from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError as fault:
        reason = "nested too deeply" if "recursion" in str(fault) else str(fault)
        raise error(f"{where}: damaged: not JSON as imagetok writes it ({reason})") from None


def read_json(path: Path, error: type[InputError] = InputError, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes` to plain data.

    Raises `error` if it is missing, too large or damaged, OSError if it cannot be read.
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
    """Read a JSON file as a section; raises what `read_json` and `as_section` raise."""
    return as_section(read_json(path, error), cls, str(path), error)


def as_section(tree: Any, cls: type[S], where: str, error: type[InputError] = InputError) -> S:
    """Validate plain data as a section; raises `error`, naming `where` and each invalid value."""
    if not isinstance(tree, dict):
        raise error(f"{where}: damaged: expected a JSON object, found {type(tree).__name__}")
    try:
        return validate(tree, cls, where)
    except ConfigError as fault:
        raise error(
            f"{fault}; the file is damaged, or another version of imagetok wrote it"
        ) from None
