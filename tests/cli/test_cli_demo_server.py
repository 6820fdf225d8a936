"""Whom the demo's server answers and what it takes, without a server."""

import asyncio
import os
from pathlib import Path

import pytest

from cli import demo_server
from cli.demo_server import Gate, Names, make_room, uploaded
from imagetok.errors import InputError

LOCAL, EVERYWHERE = Names("localhost", "127.0.0.1"), Names("0.0.0.0", "0.0.0.0")
ONE = Names("box.example", "192.0.2.7")


@pytest.mark.parametrize(
    ("names", "header", "expected"),
    [
        (LOCAL, "localhost:7860", True),
        (LOCAL, "LOCALHOST", True),
        (LOCAL, "127.0.0.1:1", True),
        (LOCAL, "[::1]:7860", True),
        (LOCAL, "evil.example:7860", False),
        (LOCAL, "localhost.evil.example", False),
        (LOCAL, "evil.example@localhost", True),  # names localhost; no browser sends it
        (LOCAL, "192.0.2.7", False),
        (LOCAL, "", False),
        (LOCAL, "[::1", False),
        (ONE, "box.example:7860", True),
        (ONE, "192.0.2.7:7860", True),
        (ONE, "other.example", False),
        (EVERYWHERE, "192.0.2.7:7860", True),
        (EVERYWHERE, "[2001:db8::1]:7860", True),
        (EVERYWHERE, "evil.example", False),
    ],
)
def test_names_of_the_server(names, header, expected):
    assert names.has(header) is expected


def test_only_what_lies_below_the_folder_was_uploaded(tmp_path, monkeypatch):
    folder, outside = tmp_path / "uploads", tmp_path / "private.png"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "sub" / "a.png", outside):
        path.write_text("a picture")
    (folder / "link.png").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    assert uploaded(str(folder / "sub" / "a.png"), folder) == str(folder / "sub" / "a.png")
    refused = [
        str(outside), "/etc/passwd", "/no/such/file", "", ".", "~", "../private.png",
        f"{folder}/../private.png", f"{folder}/link.png", f"{folder}/pipe", str(folder),
        f"{folder}x/a.png", "http://example.com/a.png", f"file://{outside}", "a\0b", "x" * 9999,
        None, 5, ["/etc/passwd"], {"path": "/etc/passwd"},
    ]  # fmt: skip
    for path in refused:
        with pytest.raises(InputError, match=r"^expected an uploaded file$"):
            uploaded(path, folder)


def test_the_oldest_files_make_room(tmp_path, monkeypatch):
    def fill(sizes: list[int]) -> None:
        for i, size in enumerate(sizes):
            path = tmp_path / f"{i}" / "file.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(bytes(size))
            os.utime(path, (i, i))

    def kept() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    monkeypatch.setattr(demo_server, "MAX_KEPT_FILES", 4)
    monkeypatch.setattr(demo_server, "MAX_KEPT_BYTES", 100)
    fill([10] * 4)
    make_room(tmp_path)
    assert kept() == ["0", "1", "2", "3"]
    fill([10] * 6)
    make_room(tmp_path)
    assert kept() == ["2", "3", "4", "5"]
    fill([90, 50, 60, 40])
    (tmp_path / "4" / "file.png").unlink()
    (tmp_path / "5" / "file.png").unlink()
    make_room(tmp_path)
    assert {"2", "3"} <= set(kept()) and not {"0", "1"} & set(kept())
    make_room(tmp_path / "missing")


def asked(gate: Gate, *parts: bytes, **change: object) -> list[int]:
    """The statuses of one POST in several parts."""
    headers = [(b"host", b"localhost:7860")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    scope |= change
    left, sent = list(parts), []

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    asyncio.run(gate(scope, receive, send))
    return sent


@pytest.mark.parametrize("is_hidden", [False, True], ids=["raises", "answers itself"])
def test_a_body_without_a_length_is_cut(tmp_path, monkeypatch, is_hidden):
    """Also where the application takes the cut for a fault of its own."""
    seen: list[int] = []

    async def app(scope, receive, send):
        try:
            while (message := await receive())["more_body"]:
                seen.append(len(message["body"]))
        except ValueError:
            if not is_hidden:
                raise
        await send({"type": "http.response.start", "status": 200, "headers": []})

    monkeypatch.setattr(demo_server, "_MAX_UPLOAD_BODY", 100)
    gate = Gate(app, LOCAL, tmp_path)
    assert asked(gate, b"x" * 40, b"x" * 40, b"") == [200]
    assert asked(gate, *[b"x" * 40] * 50) == [413]
    assert seen == [40] * 4
    assert gate._uploads == 0


def test_uploads_at_once_are_counted(tmp_path):
    gate = Gate(None, LOCAL, tmp_path)  # pyright: ignore[reportArgumentType]
    gate._uploads = demo_server._MAX_UPLOADS_AT_ONCE
    assert asked(gate, b"") == [503]


def test_no_name_or_several_are_refused(tmp_path: Path):
    gate = Gate(None, LOCAL, tmp_path)  # pyright: ignore[reportArgumentType]
    assert asked(gate, b"", headers=[]) == [403]
    assert asked(gate, b"", headers=[(b"host", b"localhost"), (b"host", b"evil.example")]) == [403]
    assert asked(gate, b"", headers=[(b"host", b"localhost"), (b"content-length", b"-1")]) == [413]
