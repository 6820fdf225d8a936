"""A loopback HTTP server of a folder, that can also fail as the network does."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit


class ShardServer:
    """Serves the files of `folder` at `url`; counts requests by name.

    faults[name]: what the next answers are instead: a status, or "cut" for half the bytes.
    """

    def __init__(self, folder: Path):
        self.requests: Counter[str] = Counter()
        self.queries: list[str] = []
        self.faults: dict[str, list[int | str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                name = parts.path.rpartition("/")[2]
                outer.requests[name] += 1
                outer.queries.append(parts.query)
                fault = outer.faults.get(name) or [None]
                answer = fault.pop(0)
                path = folder / name
                if isinstance(answer, int) or not path.is_file():
                    self.send_error(answer if isinstance(answer, int) else 404)
                    return
                data = path.read_bytes()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if answer == "cut" else data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/codes/train"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
