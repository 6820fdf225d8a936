"""The demo's web server: access control, and limits on uploads.

Any page open in the browser can send requests to a local server, also through host names that
resolve to this machine (DNS rebinding). The server therefore only answers requests whose `Host` is
one of its own names and whose `Origin` is its own page.
"""

import ipaddress
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from imagetok.errors import ConfigError, InputError, ResourceError, StoppedError

MAX_UPLOAD_BYTES = 32 << 20
"""Largest size of one uploaded file."""
MAX_KEPT_FILES, MAX_KEPT_BYTES = 1024, 512 << 20
"""Limits of stored uploads and pictures; the oldest files above them are removed."""
_MAX_UPLOAD_BODY = MAX_UPLOAD_BYTES + (1 << 20)
_MAX_BODY = 4 << 20
_MAX_UPLOADS_AT_ONCE = 8
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NOT_UPLOADED = "expected an uploaded file"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def serve(
    page: Any,
    host: str,
    port: int,
    *,
    folder: Path,
    announce: Callable[[str], None],
    wait: bool = True,
    **appearance: Any,
) -> None:
    """Serve a Gradio page; with `wait`, return only when interrupted.

    port: 0 is the first free port from 7860. folder: where uploads are stored. announce: called
    with lines for the user: the URL, and who can reach it. appearance: options of gradio's
    `launch`.

    Raises ConfigError if `host` is no address of this machine, ResourceError if the port is in
    use, StoppedError after SIGTERM.
    """
    bare = host.removeprefix("[").removesuffix("]")
    names = Names(bare, _bound_address(bare))
    if wait:
        signal.signal(signal.SIGTERM, _stop)

    @asynccontextmanager
    async def gated(app: Any) -> AsyncIterator[None]:
        # Outside all of gradio's middleware, which would answer preflight requests of other pages.
        app.middleware_stack = Gate(app.middleware_stack, names, folder)
        yield

    try:
        _, url, _ = page.launch(
            server_name=f"[{bare}]" if ":" in bare else bare,
            server_port=port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            inbrowser=False,
            max_file_size=MAX_UPLOAD_BYTES,
            ssr_mode=False,
            enable_monitoring=False,
            app_kwargs={"lifespan": gated},
            **appearance,
        )
    except OSError as error:
        raise ResourceError(
            f"--host {host} --port {port}: cannot listen on this address ({error}); "
            "choose another --port, or --port 0 for a free one"
        ) from None
    try:
        if not isinstance(page.app.middleware_stack, Gate):
            raise ResourceError(
                "this version of gradio has no place for the demo's access control; install "
                "another version, as the extra `demo` asks for"
            )
        if not names.is_local:
            announce(
                f"listening on {host}: everyone who can reach this machine over the network can "
                "use the page, without a password; omit --host to serve this machine only"
            )
        announce(f"open {url} in a browser")
        if wait:
            threading.Event().wait()
    finally:
        if wait:
            page.close(verbose=False)


class Names:
    """The host names that a server answers to, checked against the `Host` header."""

    def __init__(self, host: str, address: str):
        self.is_local = ipaddress.ip_address(address).is_loopback
        self._is_everywhere = ipaddress.ip_address(address).is_unspecified
        self._known = _LOOPBACK | {host.lower(), address}
        if self._is_everywhere:
            own = socket.gethostname().lower()
            self._known |= {own, f"{own}.local"}

    def has(self, header: str) -> bool:
        """Return whether a `Host` header names this server.

        A server on all addresses accepts any numeric address; DNS rebinding needs a name.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        if name in self._known:
            return True
        try:
            return self._is_everywhere and bool(ipaddress.ip_address(name))
        except ValueError:
            return False


class Gate:
    """ASGI middleware that rejects other host names, other origins and too large requests."""

    def __init__(self, app: App, names: Names, folder: Path):
        self._app, self._names, self._folder = app, names, folder
        self._uploads = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one request: reject it, or pass it to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # the page has no web sockets
            await send({"type": "websocket.close", "code": 1008})
        elif (refused := self._refusal(scope)) is not None:
            await _answer(send, *refused)
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        """Return the HTTP status and message of a rejected request, None for an accepted one."""
        hosts, origins, lengths = (
            [value.decode("latin-1") for key, value in scope["headers"] if key == name]
            for name in (b"host", b"origin", b"content-length")
        )
        if len(hosts) != 1 or not self._names.has(hosts[0]):
            return 403, (
                "the demo does not serve this host name; open the URL that it printed, or start it "
                "with this name as --host"
            )
        # Browsers send the origin with every request that can change state.
        if any(_without_scheme(origin) != hosts[0].lower() for origin in origins):
            return 403, "requests from other pages are rejected"
        if any(not n.isdigit() or int(n) > _body_limit(scope) for n in lengths):
            return 413, _too_large(scope)
        if _is_upload(scope) and self._uploads >= _MAX_UPLOADS_AT_ONCE:
            return 503, "too many uploads at once; try again"
        return None

    async def _pass_on(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, and reject it once its body exceeds the limit."""
        make_room(self._folder)
        taken, has_started = 0, False
        limit = _body_limit(scope)

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise ValueError(_too_large(scope))
            return message

        async def answer(message: Message) -> None:
            nonlocal has_started
            if taken <= limit or has_started:
                has_started = True
                await send(message)

        self._uploads += _is_upload(scope)
        try:
            await self._app(scope, counted, answer)
        except Exception:
            if taken <= limit:
                raise
        finally:
            self._uploads -= _is_upload(scope)
        if taken > limit and not has_started:
            await _answer(send, 413, _too_large(scope))


def uploaded(path: object, folder: Path) -> str:
    """Return the path of a file that was uploaded, or written by the page.

    Raises InputError for any other path, with one message, so that it does not reveal which files
    exist on this machine.
    """
    try:
        found = Path(path).resolve() if isinstance(path, str) else None
        is_uploaded = found is not None and found.is_relative_to(folder.resolve())
        if found is not None and is_uploaded and found.is_file():
            return str(found)
    except (OSError, ValueError, RuntimeError):  # an impossible file name
        pass
    raise InputError(_NOT_UPLOADED)


def make_room(folder: Path) -> None:
    """Remove the oldest files of a folder until it is within the limits."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        except FileNotFoundError:
            continue  # a temporary file of another request
    size = sum(bytes_ for _, bytes_, _ in found)
    surplus = len(found) - MAX_KEPT_FILES
    for i, (_, bytes_, path) in enumerate(sorted(found)):
        if i >= surplus and size <= MAX_KEPT_BYTES:
            return
        path.unlink(missing_ok=True)
        size -= bytes_
        with suppress(OSError):  # the folder holds other files
            path.parent.rmdir()


def _without_scheme(origin: str) -> str:
    return origin.lower().partition("://")[2]


def _is_upload(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"].rstrip("/").endswith("/upload")


def _body_limit(scope: MutableMapping[str, Any]) -> int:
    return _MAX_UPLOAD_BODY if _is_upload(scope) else _MAX_BODY


def _too_large(scope: MutableMapping[str, Any]) -> str:
    return f"the request is too large: expected at most {_body_limit(scope) >> 20} MB"


async def _answer(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{words}\n".encode()})


def _bound_address(host: str) -> str:
    """Return the numeric address of a host; raise ConfigError unless this machine has it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host: expected an address of this machine, like 127.0.0.1 or 0.0.0.0, found "
            f"{host!r} ({error})"
        ) from None
    return str(address[0])


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise StoppedError(f"stopped by {signal.Signals(number).name}", number)
