"""Reading the files of a code dataset from a local folder or from a URL."""

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
from imagetok.io.url_secrets import public_url, split_user, without_secrets
from imagetok.suggestions import counted

REMEDY = (
    "Copy it again; or, where it was made, delete it, its .json and manifest.json and run the same "
    "`imagetok encode` command again"
)
_TIMEOUT = 60.0
_RETRY_AFTER = (0.5, 2.0, 8.0)
"""Seconds to wait before each retry; object stores sometimes answer that they are busy."""
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MISSING_STATUS = {404, 410}


class Content(NamedTuple):
    """The bytes of a shard, and a stamp for remembering that they were verified."""

    data: mmap.mmap | bytes
    stamp: int
    """A number that changes when the file does; 0 if the data must be verified at every read."""


class Storage(ABC):
    """A folder of finished files, local or remote."""

    place: str
    """The folder or URL as text, for messages."""
    is_remote: bool

    @abstractmethod
    def read(self, name: str, max_bytes: int) -> bytes:
        """Read a small file of at most `max_bytes`.

        Raises ShardError when it is missing or larger, ResourceError when it cannot be downloaded.
        """

    @abstractmethod
    def load(self, name: str, num_bytes: int) -> Content:
        """Load a shard of exactly `num_bytes`.

        Raises ShardError when it is missing or has another size, ResourceError when it cannot be
        downloaded.
        """

    def path(self, name: str) -> str:
        """Return the path or URL of a file as text, for messages."""
        return f"{self.place}/{name}"


@final
class LocalStorage(Storage):
    """A local folder whose shards are memory-mapped."""

    is_remote = False

    def __init__(self, folder: Path):
        self.folder = folder
        self.place = str(folder)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Read a small file; raises ShardError for anything but a regular file, such as a pipe."""
        path = self.folder / name
        if not path.is_file():
            raise ShardError(f"{path}: missing")
        try:
            return read_regular(path, max_bytes)
        except FileError as error:
            raise ShardError(f"{error}; it is not a file of a code dataset") from None

    def load(self, name: str, num_bytes: int) -> Content:
        """Memory-map a shard; the data is read from disk when it is accessed."""
        path = self.folder / name
        if not path.is_file():
            raise ShardError(f"{path}: missing, but the manifest lists it; copy the dataset again")
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            _check_size(str(path), num_bytes, status.st_size)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Content(mapped, hash((status.st_dev, status.st_ino, status.st_mtime_ns)) or 1)


@final
class RemoteStorage(Storage):
    """A base URL: http(s) is read with Python's own client, other protocols with fsspec."""

    is_remote = True

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in PROTOCOLS:
            raise ConfigError(
                f"{parts.scheme}://...: expected a folder or a URL with one of the protocols "
                f"{', '.join(PROTOCOLS)}"
            )
        self._parts = parts._replace(path=parts.path.rstrip("/"), fragment="")
        self.place = public_url(urlunsplit(self._parts))

    def read(self, name: str, max_bytes: int) -> bytes:
        """Download a small file, with retries after transient errors."""
        data = self._fetch(name, max_bytes)
        if len(data) > max_bytes:
            where = self.path(name)
            raise ShardError(
                f"{where}: expected at most {max_bytes:,} bytes, found more; it is not a file of a "
                "code dataset"
            )
        return data

    def load(self, name: str, num_bytes: int) -> Content:
        """Download a whole shard into memory, with retries after transient errors."""
        data = self._fetch(name, num_bytes)
        found = len(data) if len(data) <= num_bytes else "more"
        _check_size(self.path(name), num_bytes, found)
        return Content(data, 0)

    def _fetch(self, name: str, max_bytes: int) -> bytes:
        """Download a file, at most one byte more than max_bytes of it."""
        url = urlunsplit(self._parts._replace(path=f"{self._parts.path}/{name}"))
        get = _get_http if self._parts.scheme in ("http", "https") else _get_fsspec
        try:
            return _with_retries(lambda: within_time_limit(lambda p: get(url, max_bytes + 1, p)))
        except FileNotFoundError:
            raise ShardError(f"{self.path(name)}: missing") from None
        except Exception as error:  # each fsspec protocol raises its own classes
            found = without_secrets(str(error) or type(error).__name__, url)
            raise ResourceError(
                f"{self.path(name)}: cannot be downloaded: {found}; check the URL and your access "
                "rights, or try again later"
            ) from None


def open_storage(place: Path | str) -> Storage:
    """Return a RemoteStorage for a URL, and a LocalStorage for any other text or path."""
    if isinstance(place, str) and "://" in place:
        return RemoteStorage(place)
    if not isinstance(place, str | Path):
        raise ShardError(
            "expected a code dataset: an opened one, its folder or its URL, found "
            f"{type(place).__name__}"
        )
    return LocalStorage(Path(place))


class _TransientError(Exception):
    """A network error after which a retry may succeed."""


def _with_retries(get: Callable[[], bytes]) -> bytes:
    """Return what `get` returns; retry up to three times after a _TransientError."""
    for seconds in _RETRY_AFTER:
        try:
            return get()
        except _TransientError:
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
        if error.code in _MISSING_STATUS:
            raise FileNotFoundError from None
        text = f"{error.code} {error.reason}"
        is_transient = error.code in _TRANSIENT_STATUS
        raise (_TransientError(text) if is_transient else OSError(text)) from None
    except urllib.error.URLError as error:
        raise _TransientError(str(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(str(error) or type(error).__name__) from None
    if length is not None and len(data) < min(length, max_bytes):
        raise _TransientError(
            f"the connection ended after {len(data):,} of {counted(length, 'byte')}"
        )
    return data


def _opener(url: str) -> tuple[str, urllib.request.OpenerDirector]:
    """Return the URL without user and password, and an opener that sends them to its host only."""
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
            f"{where}: expected {expected} bytes, found {found}; the shard was "
            f"truncated or replaced. {REMEDY}"
        )
