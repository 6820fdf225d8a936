"""Where the files of an uncompressed tar lie, read with suspicion: nothing is ever unpacked.

Python's tarfile takes a damaged header for the end of the tar, so that images would be lost.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol, runtime_checkable

from imagetok.errors import InputError

_BLOCK = 512
_MAX_EXTENDED = 1 << 20
_MAX_PADDING = 64 << 20
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@runtime_checkable
class SeekableFile(Protocol):
    """What is asked of a file here; of fsspec's there is no common type."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


class TarMember(NamedTuple):
    """One file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def tar_members(file: SeekableFile, where: str) -> Iterator[TarMember]:
    """The regular files of a tar (ustar, pax or GNU), in order.

    Raises InputError for a tar that is compressed, cut, damaged or followed by more, and for
    members that are links or devices, or whose names are absolute or hold `..`.
    """
    end, offset = file.seek(0, 2), 0
    extended: dict[str, str] = {}
    while True:
        file.seek(offset)
        header = file.read(_BLOCK)
        if header == bytes(_BLOCK):
            if end - offset > _MAX_PADDING:
                raise InputError(
                    f"{where}: {end - offset:,} bytes follow the end of the tar; give joined tars "
                    "one by one"
                )
            _check_rest(file, where)
            return
        info = _parsed(header, where, offset)
        size = int(extended.get("size", info.size))
        start, offset = offset + _BLOCK, offset + _BLOCK + -(-size // _BLOCK) * _BLOCK
        if start + size > end:
            raise InputError(f"{where}: is cut inside {info.name!r}; fetch it again")
        if info.type in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            if size > _MAX_EXTENDED:
                raise InputError(f"{where}: an extended header of {size:,} bytes; is it damaged?")
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
        raise InputError(f"{where}: ends without the end mark of a tar, so it is cut or empty")
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise InputError(f"{where}: no tar, or damaged at byte {offset:,} ({error})") from None
    if info.size < 0:
        raise InputError(f"{where}: damaged at byte {offset:,} (a size below zero)")
    return info


def _pax(content: bytes, where: str) -> dict[str, str]:
    """The records `length key=value` of an extended header."""
    records: dict[str, Any] = {}
    while content:
        digits, _, rest = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        # A length that holds not even itself would read one record for ever.
        has_length = len(digits) + 1 < length <= len(content)
        record = rest[: length - len(digits) - 1] if has_length else b""
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise InputError(f"{where}: damaged (an extended header has no form)")
        records[key.decode("utf-8", "surrogateescape")] = _name(value[:-1])
        content = content[length:]
    if not re.fullmatch("[0-9]{1,19}", records.get("size", "0")):
        raise InputError(f"{where}: damaged (a size is no number)")
    if any(key.startswith("GNU.sparse") for key in records):
        raise InputError(f"{where}: holds sparse files; pack it again without")
    return records


def _name(content: bytes) -> str:
    return content.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _checked(name: str, where: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise InputError(f"{where}: {name!r}: expected a name below the tar; pack it again")
    return str(path)


def _check_rest(file: SeekableFile, where: str) -> None:
    while rest := file.read(1 << 20):
        if rest.count(0) != len(rest):
            raise InputError(
                f"{where}: more follows the end of the tar; give joined tars one by one"
            )
