"""Checks between the processes of a run: equal settings and data, and whether one has ended."""

import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object

from imagetok.config import differences
from imagetok.errors import ConfigError, ImagetokError, InputError, ResourceError
from imagetok.processes import process_state
from imagetok.version import __version__

EXIT_GRACE = 60.0
"""Seconds that a process may continue after another one ended, as it may hang in a library."""
_CONNECT = 20.0
_TOKEN_BYTES, _RANK_BYTES = 32, 4
_DONE, _LOST = b"D" + bytes(_RANK_BYTES), b"L"  # messages of equal length; _LOST adds the rank
logger = logging.getLogger("imagetok")


@contextmanager
def shared_work(
    settings: Mapping[str, Any], data: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[None]:
    """Context of work that all processes of a distributed run share (a collective).

    On entering, settings and data of all processes are compared with those of the first. Inside,
    `check_peers` raises as soon as another process has ended without leaving the context.

    settings: plain data with string keys. data: returns plain data with string keys; called only
    if there are several processes. Raises ConfigError (settings) or InputError (data) with both
    values on every process if any differ.
    """
    if process_state().num_processes == 1:
        yield
        return
    versions = {"imagetok": __version__, "torch": torch.__version__}
    check_same_on_all({"versions": versions, **settings}, data())
    if _current:  # nested in another context
        yield
        return
    watch = _Watch(_connect_all())
    _current.append(watch)
    is_done = False
    try:
        yield
        is_done = True
    finally:
        _current.clear()
        watch.end(is_done)


def check_same_on_all(settings: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise on every process unless all have the values of the first one (a collective).

    settings, data: plain data with string keys. Raises ConfigError if settings differ, InputError
    if data differ.
    """
    if process_state().num_processes == 1:
        return
    mine = _Facts(socket.gethostname(), dict(settings), dict(data))
    every: list[_Facts] = gather_object([mine])
    _compare(
        *(ConfigError, "were started differently", [facts.settings for facts in every], every),
        "start all of them with the same command, config and version of imagetok",
    )
    _compare(
        *(InputError, "see different data", [facts.data for facts in every], every),
        "provide the same files on every machine, preferably on shared storage",
    )


def check_peers() -> None:
    """Raise ResourceError if another process has ended without finishing the shared work."""
    for watch in _current:
        if watch.lost is not None:
            raise ResourceError(_gone(watch.lost))


class _Facts(NamedTuple):
    """Settings and data of one process, for the comparison."""

    host: str
    settings: dict[str, Any]
    data: dict[str, Any]


def _compare(
    kind: type[ImagetokError],
    what: str,
    trees: list[dict[str, Any]],
    every: list[_Facts],
    remedy: str,
) -> None:
    for rank, tree in enumerate(trees):
        changed = differences(trees[0], tree)
        if changed:
            here, there = (f"process {r} on {every[r].host}" for r in (0, rank))
            lines = "\n".join(
                f"  {key}: {_brief(a)} in {here}, {_brief(b)} in {there}"
                for key, (a, b) in changed.items()
            )
            raise kind(f"the processes of this run {what}:\n{lines}\n{remedy}")


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _gone(rank: int) -> str:
    return (
        f"process {rank} of this run ended before the work was done; see its own message for the "
        "reason. Run the same command again to continue"
    )


class _Watch:
    """Connections between the first process and all others, which break when a process ends."""

    def __init__(self, connections: Mapping[int, socket.socket]):
        """Watch connections by rank of the other end: all for the first process, one for others."""
        self.lost: int | None = None
        """Rank of a process that ended too early."""
        self._connections = connections
        self._over = threading.Event()
        for connection in connections.values():
            connection.settimeout(None)
            _keep_alive(connection)
        _open.update(connections.values())
        self._thread = threading.Thread(target=self._look, name="imagetok peers", daemon=True)
        self._thread.start()

    def end(self, is_done: bool) -> None:
        """Close the connections; report to the others if this process finished the work."""
        self._over.set()
        for connection in self._connections.values():
            if is_done:
                _send(connection, _DONE)
            _open.discard(connection)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        self._thread.join(timeout=5)
        for connection in self._connections.values():
            connection.close()

    def _look(self) -> None:
        """Wait until the others have finished, or one has ended."""
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            while selector.get_map() and not self._over.is_set():
                for key, _ in selector.select(timeout=1):
                    connection = self._connections[key.data]
                    message = _read(connection, len(_DONE))
                    selector.unregister(connection)
                    if message != _DONE and not self._over.is_set():
                        is_report = message[:1] == _LOST
                        self._lose(int.from_bytes(message[1:], "big") if is_report else key.data)
                        return

    def _lose(self, lost: int) -> None:
        """Report a lost process to the others; end this process if it does not end by itself.

        From now on `check_peers` raises; after EXIT_GRACE seconds the process is ended.
        """
        self.lost = lost
        for rank, connection in self._connections.items():
            if rank != lost:
                _send(connection, _LOST + lost.to_bytes(_RANK_BYTES, "big"))
        if not self._over.wait(EXIT_GRACE):
            logger.error("error: %s", _gone(lost))
            os._exit(ResourceError.exit_code)


def _connect_all() -> dict[int, socket.socket]:
    """Connect all processes to the first; return sockets by rank of the other end (a collective).

    A process that cannot reach the first one's port logs an error and returns no connection.
    """
    state = process_state()
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    host = "127.0.0.1" if host == "localhost" else host
    if state.is_main_process:
        place = host if host.startswith("127.") else ""
        with socket.create_server((place, 0), backlog=state.num_processes) as listener:
            port, token = listener.getsockname()[1], secrets.token_bytes(_TOKEN_BYTES)
            gather_object([(port, token)])
            return _accept_all(listener, token, state.num_processes - 1)
    port, token = gather_object([(0, b"")])[0]
    try:
        connection = socket.create_connection((host, port), timeout=_CONNECT)
        connection.sendall(token + state.process_index.to_bytes(_RANK_BYTES, "big"))
    except OSError as error:
        logger.error(
            "process %d cannot reach the first one at %s:%d (%s): if a process ends early, the "
            "others will notice it late",
            *(state.process_index, host, port, error),
        )
        return {}
    return {0: connection}


def _accept_all(listener: socket.socket, token: bytes, count: int) -> dict[int, socket.socket]:
    """Accept connections of `count` processes, or of those that come in time; return by rank."""
    found: dict[int, socket.socket] = {}
    end = time.monotonic() + 2 * _CONNECT
    while len(found) < count and (left := end - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except OSError:
            continue
        connection.settimeout(_CONNECT / 4)
        hello = _read(connection, _TOKEN_BYTES + _RANK_BYTES)
        if secrets.compare_digest(hello[:_TOKEN_BYTES], token):
            found[int.from_bytes(hello[_TOKEN_BYTES:], "big")] = connection
        else:  # not a process of this run
            connection.close()
    return found


def _keep_alive(connection: socket.socket) -> None:
    """Set TCP keep-alive, so that a machine that went down is noticed within half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _read(connection: socket.socket, size: int) -> bytes:
    """Read `size` bytes, or fewer if the connection ends."""
    data = b""
    with suppress(OSError):
        while len(data) < size and (more := connection.recv(size - len(data))):
            data += more
    return data


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the other process may have ended too
        connection.sendall(data)


_current: list[_Watch] = []
_open: set[socket.socket] = set()


def _drop_inherited_connections() -> None:
    """Close inherited connections in a forked child, such as a loader's worker.

    Otherwise the child would keep them open after its parent has ended.
    """
    for connection in _open:
        connection.close()
    _open.clear()
    _current.clear()


os.register_at_fork(after_in_child=_drop_inherited_connections)
