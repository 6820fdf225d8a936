"""A small Hub on 127.0.0.1: repositories with commits, branches and tags, spoken to over HTTP.

It answers the requests that huggingface_hub makes to read and write models, as the real one does:
regular files from the repository, large ones (`*.safetensors`) by a redirect to a store on another
host name. `fail`, `cut` and `tamper` make it misbehave.
"""

import base64
import hashlib
import json
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN, READER = "hf_of_ann", "hf_of_bob"
USERS = {TOKEN: "ann", READER: "bob"}
Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository: every commit's files, and what its branches and tags point to."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, ref: str = "main") -> str:
        parent = self.refs.get(ref, "")
        content = [[name, sha256(data)] for name, data in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([parent, len(self.commits), content]).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None

    def head(self, ref: str = "main") -> Files:
        return self.commits[self.refs[ref]]


@dataclass
class Fault:
    """What happens to the next `times` requests that match."""

    pattern: str
    times: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: int | None = None
    """Cut the connection at this byte of the file."""
    drips: bool = False
    """Send the file a byte now and then."""


class HubServer:
    """Runs while its `with` block runs."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: Files = {}
        """Large files by sha256."""
        self.requests: list[str] = []
        """`METHOD path` of each."""
        self.waits: list[float] = []
        """Seconds that huggingface_hub would have waited before it tried again."""
        self.unexpected: list[str] = []
        self.faults: list[Fault] = []
        self.open: list[socket.socket] = []
        self.lock = Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.hub = self  # pyright: ignore[reportAttributeAccessIssue]
        self.port = self.http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.store_url = f"http://localhost:{self.port}/store"

    def __enter__(self) -> "HubServer":
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Free the port and end every connection; whoever asks next is refused."""
        self.http.shutdown()
        self.http.server_close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, name: str, files: Files, **options: Any) -> str:
        """A repository with these files on main; returns the commit."""
        self.repos[name] = Repo(**options)
        return self.repos[name].commit(files)

    def fail(self, pattern: str, status: int, times: float = float("inf"), **headers: str) -> None:
        """Answer what matches `METHOD path` with a status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(pattern, times, status, named))

    def cut(self, pattern: str, after: int, times: float = float("inf")) -> None:
        """Close the connection at a byte of the file that is sent or received."""
        self.faults.append(Fault(pattern, times, after=after))

    def drip(self, pattern: str) -> None:
        """Send a file a byte now and then, as if for ever."""
        self.faults.append(Fault(pattern, float("inf"), drips=True))

    def tamper(self, repo: str, name: str, data: bytes) -> None:
        """Serve other bytes than those committed, under the same hash."""
        committed = self.repos[repo].head()[name]
        if is_large(name):
            self.store[sha256(committed)] = data
        else:
            self.repos[repo].head()[name] = data

    def asked(self, pattern: str) -> list[str]:
        """The requests so far that match."""
        return [request for request in self.requests if re.search(pattern, request)]

    def fault(self, request: str) -> Fault | None:
        """The fault that this request meets, used up once."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, request):
                    fault.times -= 1
                    return fault
        return None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def oid(name: str, data: bytes) -> str:
    return sha256(data) if is_large(name) else git_sha(data)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def setup(self) -> None:
        super().setup()
        self.hub.open.append(self.connection)

    def log_message(self, *message: object) -> None: ...

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # pyright: ignore[reportAttributeAccessIssue]

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        quoted = f"{self.command} {urlsplit(self.path).path}"  # a branch may have a slash
        request = unquote(quoted)
        self.hub.requests.append(request)
        self.met = self.hub.fault(request)
        body = self.read_body()
        if body is None:
            return
        if self.met is not None and self.met.status:
            return self.send(self.met.status, {"error": "as asked for"}, self.met.headers)
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, quoted)
            if match:
                groups = [group and unquote(group) for group in match.groups()]
                return getattr(self, method)(*groups, body=body)
        self.hub.unexpected.append(request)
        self.send(501, {"error": "this test server does not know it"})

    def read_body(self) -> bytes | None:
        """The request's content; None where the connection is cut before its end."""
        limit = self.met.after if self.met is not None and self.command == "PUT" else None
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length if limit is None else min(limit, length))
        if limit is None:
            return body
        self.hang_up()
        return None

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_bytes(status, data, {"Content-Type": "application/json"} | (headers or {}))

    def send_bytes(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str = "") -> None:
        headers = {"X-Error-Message": message or code} | ({"X-Error-Code": code} if code else {})
        self.send(status, {"error": message or code}, headers)

    def user(self) -> str | None:
        """Who asks; None after answering a wrong token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in USERS:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return None
        return USERS.get(token, "")

    def repo(self, name: str, *, writing: bool = False) -> Repo | None:
        """A repository that the user may have; None after answering that not."""
        user, repo, owner = self.user(), self.hub.repos.get(name), name.split("/")[0]
        if user is None:
            return None
        if repo is None or (repo.private and user != owner):
            self.refuse(404 if user else 401, "RepoNotFound", "Repository not found")
            return None
        if writing and user != owner:
            self.refuse(403, "", f"You don't have the rights to write to {name}")
            return None
        return repo

    def revision(self, name: str, revision: str) -> tuple[Repo, str] | None:
        repo = self.repo(name)
        sha = repo and repo.resolve(revision)
        if repo is not None and sha is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return (repo, sha) if repo is not None and sha is not None else None

    def harnesses(self, *, body: bytes) -> None:
        self.send(200, {"standardEnvVars": [], "harnesses": {}})

    def info(self, name: str, revision: str | None, *, body: bytes) -> None:
        found = self.revision(name, revision or "main")
        if found is not None:
            repo, sha = found
            siblings = [{"rfilename": path} for path in repo.commits[sha]]
            self.send(200, {"id": name, "sha": sha, "private": repo.private, "siblings": siblings})

    def file(self, name: str, revision: str, path: str, *, body: bytes) -> None:
        found = self.revision(name, revision)
        if found is None:
            return
        repo, sha = found
        if repo.gated and self.user() != name.split("/")[0]:
            return self.refuse(403, "GatedRepo", "Access to this repository is restricted")
        data = repo.commits[sha].get(path)
        commit = {"X-Repo-Commit": sha}
        if data is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, {"error": "Entry not found"}, headers | commit)
        headers = commit | {"ETag": f'"{oid(path, data)}"'}
        if not is_large(path):
            return self.send_bytes(200, data, headers)
        self.hub.store.setdefault(sha256(data), data)
        linked = {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
        place = {"Location": f"{self.hub.store_url}/{sha256(data)}"}
        self.send_bytes(302, b"", headers | linked | place)

    def stored(self, digest: str, *, body: bytes) -> None:
        if "Authorization" in self.headers:
            self.hub.unexpected.append("the token was sent to the store")
        data = self.hub.store[digest]
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        part = data[first:]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.met is not None and self.met.after is not None:
            self.wfile.write(data[first : self.met.after])
            return self.hang_up()
        if self.met is not None and self.met.drips:
            with suppress(OSError):  # nobody waits any more
                for byte in part:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            return None
        self.wfile.write(part)

    def create(self, *, body: bytes) -> None:
        user, asked = self.user(), json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if user is None:
            return
        if user != asked["organization"]:
            return self.refuse(403, "", f"You don't have the rights to create {name}")
        if name in self.hub.repos:
            return self.refuse(409, "", "You already created this model repo")
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self.send(200, {"url": f"{self.hub.url}/{name}", "id": name})

    def branch(self, name: str, branch: str, *, body: bytes) -> None:
        repo = self.repo(name, writing=True)
        if repo is None:
            return
        if branch in repo.refs:
            return self.refuse(409, "", "Reference already exists")
        repo.refs[branch] = repo.refs["main"]
        self.send(200)

    def validate(self, *, body: bytes) -> None:
        """The card's front matter must be YAML with what the Hub knows in it."""
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], flags=re.S)
        front = yaml.safe_load(match[1]) if match else None
        tasks = {None, "image-to-image", "unconditional-image-generation"}
        if (
            isinstance(front, dict)
            and isinstance(front.get("library_name"), str)
            and all(isinstance(tag, str) for tag in front.get("tags", []))
            and front.get("pipeline_tag") in tasks
        ):
            return self.send(200, {"errors": [], "warnings": []})
        self.send(400, {"errors": [{"message": "the metadata is not valid"}], "warnings": []})

    def preupload(self, name: str, revision: str, *, body: bytes) -> None:
        if self.repo(name, writing=True) is None:
            return
        found = self.revision(name, revision)
        if found is not None:
            there = found[0].commits[found[1]]
            files = [
                {
                    "path": asked["path"],
                    "uploadMode": "lfs" if is_large(asked["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": oid(asked["path"], there[asked["path"]])
                    if asked["path"] in there
                    else None,
                }
                for asked in json.loads(body)["files"]
            ]
            self.send(200, {"files": files})

    def batch(self, name: str, *, body: bytes) -> None:
        if self.repo(name, writing=True) is None:
            return
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.store:
                place = f"{self.hub.store_url}/{asked['oid']}"
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/verify"}
                entry["actions"] = {"upload": {"href": place}, "verify": verify}
            objects.append(entry)
        self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, digest: str, *, body: bytes) -> None:
        if sha256(body) != digest:
            return self.refuse(400, "", "the content is not what was announced")
        self.hub.store[digest] = body
        self.send_bytes(200, b"", {})

    def verified(self, *, body: bytes) -> None:
        self.send(200 if json.loads(body)["oid"] in self.hub.store else 404, {})

    def commit(self, name: str, branch: str, *, body: bytes) -> None:
        repo = self.repo(name, writing=True)
        if repo is None:
            return
        if branch not in repo.refs:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        files = dict(repo.head(branch))
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
            elif item["key"] != "header":
                self.hub.unexpected.append(f"commit: {item['key']}")
        sha = repo.commit(files, branch)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": url})


NAME = "([^/]+/[^/]+)"
ROUTES = [
    ("GET /api/agent-harnesses", "harnesses"),
    (f"GET /api/models/{NAME}(?:/revision/(.+))?", "info"),
    (f"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", "file"),
    ("GET /store/(.+)", "stored"),
    ("PUT /store/(.+)", "upload"),
    ("POST /api/repos/create", "create"),
    ("POST /api/validate-yaml", "validate"),
    (f"POST /api/models/{NAME}/branch/(.+)", "branch"),
    (f"POST /api/models/{NAME}/preupload/(.+)", "preupload"),
    (f"POST /api/models/{NAME}/commit/(.+)", "commit"),
    (f"POST /{NAME}.git/info/lfs/objects/batch", "batch"),
    (f"POST /{NAME}.git/info/lfs/verify".replace("(", "(?:"), "verified"),
]
"""`METHOD path` -> the method that answers it."""
