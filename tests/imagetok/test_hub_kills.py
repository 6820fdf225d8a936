"""`push` killed at any request or disk operation: pushed again, the Hub has the same content."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import huggingface_hub
import pytest
from disk_faults import at_every_operation, in_fork
from hub_server import Files, HubServer

from imagetok.artifacts import push_artifact

TOKENIZER = Path(__file__).parents[1] / "stored" / "runs" / "edvae" / "tokenizer"
NAME = "ann/edvae"
OLD = {"config.json": b"old", ".gitattributes": b"*.safetensors filter=lfs\n"}


def push(before: Callable[[str], None], revision: str | None) -> None:
    """Push, with `before(what)` ahead of disk operations and requests, and after answers."""
    huggingface_hub.close_session()  # the parent's connections are not to be shared
    client = type(huggingface_hub.get_session())
    send = client.send

    def sent(*request: Any, **options: Any) -> Any:
        before("request")
        answer = send(*request, **options)
        before("answer")
        return answer

    with patch.object(client, "send", sent), at_every_operation(before):
        push_artifact(TOKENIZER, NAME, revision=revision)


def kill_everywhere(
    hub: HubServer, old: Files | None, revision: str | None, stride: int = 1
) -> int:
    """How many kills there were; after each the branch is as before or whole, and then whole."""
    branch = revision or "main"

    def begin() -> None:
        hub.repos.clear()
        hub.store.clear()
        if old is not None:
            hub.add(NAME, old)

    def head() -> Files:
        repo = hub.repos.get(NAME)
        return repo.head(branch) if repo is not None and branch in repo.refs else {}

    begin()
    seen: list[str] = []
    push(seen.append, revision)
    whole = head()
    assert seen.count("request") == seen.count("answer") >= 5 and seen.count("write") >= 1
    first = OLD if old is not None else {".gitattributes": OLD[".gitattributes"]}
    for point in range(0, 10**6, stride):
        begin()
        points = iter(range(10**6))

        def before(_: str, wanted: int = point, points=points) -> None:
            if next(points) == wanted:
                os.kill(os.getpid(), signal.SIGKILL)

        end = in_fork(lambda before=before: push(before, revision))
        if end == 0:
            return point // stride
        assert end == -signal.SIGKILL, f"point {point} ended with {end}"
        assert head() in ({}, first, whole), f"point {point} left a part"
        push(lambda _: None, revision)
        assert head() == whole and len(hub.repos[NAME].commits) == 2, f"point {point}"
    raise AssertionError


@pytest.fixture(autouse=True)
def temporaries(tmp_path: Path, monkeypatch) -> None:
    """What killed processes leave in the machine's folder for temporary files is not ours."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_a_push_killed_at_some_points_is_pushed_again(hub: HubServer) -> None:
    assert kill_everywhere(hub, None, None, stride=8) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("revision", [None, "v2"])
@pytest.mark.parametrize("old", [None, OLD], ids=["new", "old"])
def test_a_push_killed_anywhere_is_pushed_again(
    hub: HubServer, old: Files | None, revision: str | None
) -> None:
    assert kill_everywhere(hub, old, revision) > 20
