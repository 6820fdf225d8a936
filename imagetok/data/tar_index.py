"""Index of the files in an uncompressed tar, read strictly and without unpacking anything.

Python's tarfile treats a damaged header as the end of the tar, so that images would be lost.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

from imagetok.errors import InputError
from imagetok.suggestions import counted

_BLOCK = 512
_MAX_EXTENDED = 1 << 20
_MAX_PADDING = 64 << 20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@runtime_checkable
class SeekableFile(Protocol):
    """A file that can be read and seeked; fsspec's file classes have no common type."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class TarMember(NamedTuple):
    """One file in a tar: its name, and the offset and size of its data in bytes."""

    name: str
    offset: int
    size: int


def tar_members(file: SeekableFile, where: str) -> Iterator[TarMember]:
    """Yield the regular files of a tar (ustar, pax or GNU) in order.

    Raises InputError for a tar that is compressed, truncated, damaged or followed by more data, and
    for members that are links or devices, or whose names are absolute or contain `..`.
    """
    end, offset = file.seek(0, 2), 0
    extended: dict[str, str] = {}
    while True:
        file.seek(offset)
        header = file.read(_BLOCK)
        if header == bytes(_BLOCK):
            if end - offset > _MAX_PADDING:
                raise InputError(
                    f"{where}: found {counted(end - offset, 'byte')} after the end of the tar; "
                    "split concatenated tars into one file each"
                )
            _check_rest(file, where)
            return
        info = _parsed(header, where, offset)
        size = int(extended.get("size", info.size))
        start, offset = offset + _BLOCK, offset + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if start + size > end:
            raise InputError(f"{where}: is truncated inside {info.name!r}; copy it again")
        if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if size > _MAX_EXTENDED:
                raise InputError(
                    f"{where}: expected an extended header of at most {_MAX_EXTENDED:,} bytes, "
                    f"found {size:,}; the file is probably damaged"
                )
            content = file.read(size)
            is_pax = info.type == tarfile.XHDTYPE
            extended |= _pax(content, where) if is_pax else {"path": _name(content)}
            continue
        if info.type in tarfile.REGULAR_TYPES and info.type != tarfile.GNUTYPE_SPARSE:
            yield TarMember(_checked(extended.get("path", info.name), where), start, size)
        elif info.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            raise InputError(
                f"{where}: {info.name!r}: expected a regular file, found a link or device"
            )
        extended = {}


def _parsed(header: bytes, where: str, offset: int) -> tarfile.TarInfo:
    if offset == 0 and header.startswith(_COMPRESSED):
        raise InputError(
            f"{where}: expected an uncompressed tar, found a compressed one; unpack it"
        )
    if len(header) < _BLOCK:
        raise InputError(
            f"{where}: expected the end mark of a tar, found the end of the file; it is truncated "
            "or empty, so copy it again"
        )
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InputError(f"{where}: not a tar, or damaged at byte {offset:,} ({error})") from None
    if info.size < 0:
        raise InputError(f"{where}: damaged at byte {offset:,} (a negative size)")
    return info


def _pax(content: bytes, where: str) -> dict[str, str]:
    """Parse the records `length key=value` of an extended header."""
    records: dict[str, Any] = {}
    while content:
        digits, _, rest = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        # A length shorter than its own digits would read the same record without end.
        has_length = len(digits) + 1 < length <= len(content)
        record = rest[: length - len(digits) - 1] if has_length else b""
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise InputError(f"{where}: damaged (an extended header is malformed)")
        records[key.decode("utf-8", "surrogateescape")] = _name(value[:-1])
        content = content[length:]
    if not re.fullmatch("[0-9]{1,19}", records.get("size", "0")):
        raise InputError(f"{where}: damaged (a size is not a number)")
    if any(key.startswith("GNU.sparse") for key in records):
        raise InputError(f"{where}: contains sparse files; pack it again without --sparse")
    return records


def _name(content: bytes) -> str:
    return content.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _checked(name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise InputError(
            f"{where}: {name!r}: expected a relative name without `..`; pack the tar again"
        )
    return str(path)


def _check_rest(file: SeekableFile, where: str) -> None:
    while rest := file.read(1 << 20):
        if rest.count(0) != len(rest):
            raise InputError(
                f"{where}: more data follows the end of the tar; split concatenated tars into one "
                "file each"
            )
