"""Where the files of a code dataset lie: a local folder, or a URL."""

import http.client
import mmap
import os
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, final
from urllib.parse import urlsplit, urlunsplit

from imagetok.data.shard_patterns import PROTOCOLS
from imagetok.errors import ConfigError, ResourceError, ShardError
from imagetok.io.regular_files import FileError, open_regular, read_regular
from imagetok.io.timeouts import TransferProgress, within_time_limit
from imagetok.io.urls import public_url, split_user, without_secrets

REMEDY = (
    "Copy it again; or delete it with its .json and manifest.json where it was made, and run the "
    "same `imagetok encode` again"
)
_TIMEOUT = 60.0
_RETRY_AFTER = (0.5, 2.0, 8.0)
"""Seconds; object stores answer now and then that they are busy."""
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_GONE = {404, 410}


class Content(NamedTuple):
    """The bytes of a shard."""

    data: mmap.mmap | bytes
    stamp: int
    """Changes when the file does; 0 where every reading must be verified."""


class Storage(ABC):
    """A folder of files that do not change any more."""

    place: str
    """For messages."""
    is_remote: bool

    @abstractmethod
    def read(self, name: str, max_bytes: int) -> bytes:
        """A small file. ShardError when it is missing or longer, ResourceError without access."""

    @abstractmethod
    def load(self, name: str, num_bytes: int) -> Content:
        """A shard. ShardError when it is missing or not `num_bytes` long."""

    def path(self, name: str) -> str:
        """Of a file, for messages."""
        return f"{self.place}/{name}"


@final
class LocalStorage(Storage):
    """A folder; its shards are memory-mapped."""

    is_remote = False

    def __init__(self, folder: Path):
        self.folder = folder
        self.place = str(folder)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Refuses whatever is no regular file, such as a pipe that would never end."""
        path = self.folder / name
        if not path.is_file():
            raise ShardError(f"{path}: missing")
        try:
            return read_regular(path, max_bytes)
        except FileError as error:
            raise ShardError(f"{error}; it cannot be what it says") from None

    def load(self, name: str, num_bytes: int) -> Content:
        """Nothing is read yet; pages come in when they are touched."""
        path = self.folder / name
        if not path.is_file():
            raise ShardError(f"{path}: missing, though it is listed; copy the dataset again")
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            _check_size(str(path), num_bytes, status.st_size)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Content(mapped, hash((status.st_dev, status.st_ino, status.st_mtime_ns)) or 1)


@final
class RemoteStorage(Storage):
    """A URL below which the files lie: http(s) by Python's own client, the others by fsspec."""

    is_remote = True

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in PROTOCOLS:
            raise ConfigError(
                f"{parts.scheme}://...: expected a folder or a URL of {', '.join(PROTOCOLS)}"
            )
        self._parts = parts._replace(path=parts.path.rstrip("/"), fragment="")
        self.place = public_url(urlunsplit(self._parts))

    def read(self, name: str, max_bytes: int) -> bytes:
        """The whole file, tried again after a passing fault."""
        data = self._fetch(name, max_bytes)
        if len(data) > max_bytes:
            where = self.path(name)
            raise ShardError(f"{where}: larger than {max_bytes:,} bytes; it cannot be what it says")
        return data

    def load(self, name: str, num_bytes: int) -> Content:
        """The whole shard, in memory."""
        data = self._fetch(name, num_bytes)
        found = len(data) if len(data) <= num_bytes else "more"
        _check_size(self.path(name), num_bytes, found)
        return Content(data, 0)

    def _fetch(self, name: str, max_bytes: int) -> bytes:
        """The file, cut one byte after max_bytes."""
        url = urlunsplit(self._parts._replace(path=f"{self._parts.path}/{name}"))
        get = _get_http if self._parts.scheme in ("http", "https") else _get_fsspec
        try:
            return _with_retries(lambda: within_time_limit(lambda p: get(url, max_bytes + 1, p)))
        except FileNotFoundError:
            raise ShardError(f"{self.path(name)}: missing") from None
        except Exception as error:  # each protocol has its own
            found = without_secrets(str(error) or type(error).__name__, url)
            raise ResourceError(
                f"{self.path(name)}: cannot be fetched: {found}; try again later, or check access"
            ) from None


def open_storage(place: Path | str) -> Storage:
    """A URL as a RemoteStore, anything else as a folder."""
    if isinstance(place, str) and "://" in place:
        return RemoteStorage(place)
    return LocalStorage(Path(place))


class _Passing(Exception):
    """A fault of a network that may be over at the next try."""


def _with_retries(get: Callable[[], bytes]) -> bytes:
    """What `get` gives, at the latest at the fourth try."""
    for seconds in _RETRY_AFTER:
        try:
            return get()
        except _Passing:
            time.sleep(seconds)
    return get()


def _get_http(url: str, max_bytes: int, progress: TransferProgress) -> bytes:
    plain, opener = _opener(url)
    request = urllib.request.Request(plain, headers={"User-Agent": "imagetok"})
    try:
        with opener.open(request, timeout=_TIMEOUT) as response:
            length = response.length
            data = progress.read(response.read1, max_bytes)
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            raise FileNotFoundError from None
        text = f"{error.code} {error.reason}"
        raise (_Passing(text) if error.code in _PASSING else OSError(text)) from None
    except urllib.error.URLError as error:
        raise _Passing(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(str(error) or type(error).__name__) from None
    if length is not None and len(data) < min(length, max_bytes):
        raise _Passing(f"the connection ended after {len(data):,} of {length:,} bytes")
    return data


def _opener(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """The URL without its user, whom the opener names to that host, and to no other."""
    plain, user, password = split_user(url)
    if user is None:
        return plain, urllib.request.build_opener()
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, plain, user, password, is_authenticated=True)
    return plain, urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))


def _get_fsspec(url: str, max_bytes: int, progress: TransferProgress) -> bytes:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    with system.open(path, "rb") as file:
        return progress.read(file.read, max_bytes)


def _check_size(where: str, expected: int, found: int | str) -> None:
    if found != expected:
        raise ShardError(
            f"{where}: expected {expected} bytes, found {found}; the shard was cut off or "
            f"replaced. {REMEDY}"
        )
