"""A loopback HTTP server of a folder, that can also fail as the network does."""

import base64
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

DRIP_SECONDS = 0.05


class ShardServer:
    """Serves the files of `folder` at `url`; counts requests by name.

    faults[name]: what the next answers are instead: a status, "cut" for half the bytes, "drip" for
    a byte now and then, or another server's URL to go to. user: `name:password`, the only one who
    is answered.
    """

    def __init__(self, folder: Path, user: str | None = None):
        self.folder = folder
        self.requests: Counter[str] = Counter()
        self.queries: list[str] = []
        self.logins: list[str | None] = []
        self.faults: dict[str, list[int | str]] = {}
        self.login = user and f"Basic {base64.b64encode(user.encode()).decode()}"
        handler = type("Handler", (_Handler,), {"outer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/codes/train"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    outer: ShardServer

    def do_GET(self) -> None:
        parts, login = urlsplit(self.path), self.headers["Authorization"]
        name = parts.path.rpartition("/")[2]
        self.outer.requests[name] += 1
        self.outer.queries.append(parts.query)
        self.outer.logins.append(login)
        fault = (self.outer.faults.get(name) or [""]).pop(0)
        path = self.outer.folder / name
        if self.outer.login not in (None, login):
            self.send_error(401)
        elif isinstance(fault, int) or not path.is_file():
            self.send_error(fault if isinstance(fault, int) else 404)
        elif fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            self.end_headers()
        else:
            self._send(path.read_bytes(), fault)

    do_HEAD = do_GET

    def _send(self, data: bytes, fault: str) -> None:
        part = self.headers["Range"]
        if part is None:
            self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
        else:
            first, last = (int(n) if n else len(data) - 1 for n in part[6:].split("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if fault == "drip":
            self._drip(data)
        elif self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def _drip(self, data: bytes) -> None:
        try:
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                time.sleep(DRIP_SECONDS)
        except OSError:
            pass  # nobody waits any more

    def log_message(self, format: str, *arguments: object) -> None:
        pass
