"""Hub ids, fetching files of one commit, and pushing, against a Hub on 127.0.0.1."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import READER, HubServer
from huggingface_hub import HfApi

from imagetok import hub as hub_module
from imagetok.errors import ArtifactError, ConfigError, ImagetokError, ResourceError
from imagetok.hub import HubId, Repository, parse, push, same_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "ann/edvae"
FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user/name", HubId("user/name")),
        ("User.1/na_me-2", HubId("User.1/na_me-2")),
        ("user/name@v1.0", HubId("user/name", "v1.0")),
        ("user/name@refs/pr/1", HubId("user/name", "refs/pr/1")),
        (f"user/name@{COMMIT}", HubId("user/name", COMMIT)),
    ],
)
def test_a_hub_id_is_recognised(text: str, expected: HubId) -> None:
    found = parse(text)
    assert found == expected and str(found) == text
    assert found.is_commit == (expected.revision == COMMIT)


LOCAL = """
name /user/name ./user/name ../name ~/name a/b/c a/b/ a//b a/ /a user/.. user/.name us--er/name
user/name.git úser/name user/name@ user/name@../../x user/name@a/../../x user/name@/x
user/name@v1@v2 user/name@.x
"""


@pytest.mark.parametrize("text", ["", "a/b c", "a/b\0", "user/name@a b", *LOCAL.split()])
def test_whatever_has_another_form_is_a_local_path(text: str) -> None:
    assert parse(text) is None


def test_what_is_a_path_or_exists_is_local(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(Path("user/name")) is None
    assert parse("user/name") is not None and parse("user/name@v1") is not None
    (tmp_path / "user" / "name").mkdir(parents=True)
    assert parse("user/name") is None and parse("user/name@v1") is not None
    (tmp_path / "user" / "name@v1").touch()
    assert parse("user/name@v1") is None


def test_a_revision_is_given_once_and_only_to_a_hub_id(tmp_path: Path) -> None:
    expected = HubId("user/name", "v1")
    assert (
        parse("user/name", "v1") == parse("user/name@v1") == parse("user/name@v1", "v1") == expected
    )
    for source, revision, says in [
        ("user/name@v1", "v2", "expected one revision, found v1 and v2"),
        (tmp_path, "v1", "found a local path"),
        ("nowhere", "v1", "found a local path"),
        ("user/name", "v/../../v1", "expected a branch, a tag or a commit"),
    ]:
        with pytest.raises(ConfigError, match=says):
            parse(source, revision)


def test_a_recorded_commit_stands_for_its_repository_only(tmp_path: Path, monkeypatch) -> None:
    recorded, other = f"user/name@{COMMIT}", f"user/name@{COMMIT[::-1]}"
    for asked in ("user/name", "user/name@v1", recorded):
        assert same_commit(asked, recorded) == recorded
    for asked in ("user/other", "runs/a/tokenizer", other):
        assert same_commit(asked, recorded) == asked
    assert same_commit("user/name", "user/name@v1") == "user/name"
    assert same_commit("user/name", "runs/a/tokenizer") == "user/name"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "name").mkdir(parents=True)
    assert same_commit("user/name", recorded) == "user/name"


def fetch(source: str, *names: str) -> Repository:
    hub_id = parse(source)
    assert hub_id is not None
    repository = Repository(hub_id)
    for name in names or FILES:
        repository.fetch(name)
    return repository


def contents(repository: Repository) -> dict[str, bytes]:
    folder = repository.folder
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def refused(error: type[ImagetokError], *says: str, source: str = NAME) -> None:
    with pytest.raises(error) as caught:
        fetch(source)
    assert all(text in str(caught.value) for text in (*says, source))
    assert "\n" not in str(caught.value)


def test_only_what_is_asked_for_is_fetched(hub: HubServer) -> None:
    sha = hub.add(NAME, FILES | {"model.pkl": b"x", "../evil": b"x", "tokenizer/x.bin": b"x"})
    repository = fetch(NAME)
    assert contents(repository) == FILES
    assert repository.origin == f"{NAME}@{sha}" and repository.folder.name == sha
    files = {request.split("/", 5)[-1] for request in hub.asked("resolve|store/")}
    assert len(hub.asked("/resolve/")) == 3 and len(hub.asked("/store/")) == 1  # config: also HEAD
    assert not any("pkl" in name or "evil" in name or "bin" in name for name in files)


def test_all_files_are_of_one_commit_even_if_the_branch_moves(hub: HubServer) -> None:
    first = hub.add(NAME, FILES)
    repository = fetch(NAME, "config.json")
    second = hub.repos[NAME].commit({"config.json": b"[]", "model.safetensors": b"other"})
    repository.fetch("model.safetensors")
    assert contents(repository) == FILES and repository.origin == f"{NAME}@{first}"
    assert fetch(NAME).origin == f"{NAME}@{second}"
    assert contents(fetch(f"{NAME}@{first}")) == FILES


def test_branches_tags_and_commits(hub: HubServer) -> None:
    first = hub.add(NAME, FILES)
    hub.repos[NAME].refs["v1"] = first
    second = hub.repos[NAME].commit({**FILES, "config.json": b"[]"}, "refs/pr/1")
    for revision, sha in [("main", first), ("v1", first), ("refs/pr/1", second), (first, first)]:
        assert fetch(f"{NAME}@{revision}").origin == f"{NAME}@{sha}"


def test_a_commit_in_the_cache_needs_no_request(hub: HubServer) -> None:
    sha = hub.add(NAME, FILES)
    fetch(NAME)
    hub.requests.clear()
    repository = fetch(f"{NAME}@{sha}")
    assert contents(repository) == FILES and hub.requests == []
    repository.fetch("README.md", optional=True)  # it may be there: only the Hub knows
    assert len(hub.asked("README.md")) == 1
    fetch(f"{NAME}@{sha}").fetch("README.md", optional=True)  # now it is known not to be
    assert len(hub.asked("README.md")) == 1


def test_a_missing_file_is_named(hub: HubServer) -> None:
    hub.add(NAME, {"config.json": b"{}"})
    refused(ArtifactError, "has no model.safetensors")
    hub.add("ann/empty", {})
    refused(ArtifactError, "has no config.json", source="ann/empty")


def test_a_file_of_another_commit_is_refused(hub: HubServer) -> None:
    hub.add(NAME, FILES)
    for name, commit in [("model.safetensors", COMMIT), ("config.json", "main2")]:
        lie = {"X_Repo_Commit": commit, "X_Linked_Size": str(len(FILES[name])), "ETag": '"x"'}
        hub.fail(f"HEAD .*{name}", 200, **lie)
        refused(ArtifactError, "expected a file of commit", f"found one of '{commit}'")


@pytest.fixture(params=["no network", "offline mode", "server fault"])
def unreachable(request, hub: HubServer, monkeypatch) -> Callable[[], None]:
    """unreachable(): from here on the Hub does not answer."""

    def change() -> None:
        match request.param:
            case "no network":
                hub.stop()
            case "offline mode":
                monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            case _:
                hub.fail(".*", 503)

    return change


def test_without_the_hub_a_branch_is_what_the_cache_has(
    hub: HubServer, unreachable: Callable[[], None], monkeypatch, caplog
) -> None:
    sha = hub.add(NAME, FILES)
    fetch(NAME)
    hub.repos[NAME].commit({**FILES, "config.json": b"[]"})
    unreachable()
    monkeypatch.setattr(logging.getLogger("imagetok"), "propagate", True)
    repository = fetch(NAME)
    repository.fetch("README.md", optional=True)
    assert contents(repository) == FILES
    assert f"using the cached commit {sha}" in caplog.text
    assert contents(fetch(f"{NAME}@{sha}")) == FILES


def test_without_the_hub_and_cache_it_fails_at_once(
    hub: HubServer, unreachable: Callable[[], None]
) -> None:
    sha = hub.add(NAME, FILES)
    fetch(NAME, "config.json")
    unreachable()
    refused(ResourceError, "cache does not have its model.safetensors", f"imagetok inspect {NAME}")
    refused(ResourceError, "cache does not have its model", source=f"{NAME}@{sha}")
    refused(ResourceError, "cache does not have its config.json", source=f"{NAME}@v1")
    refused(ResourceError, "pass the path of a local folder", source="ann/other")
    assert hub.waits == []
    assert not hub.asked("HEAD .*model.safetensors")


def test_a_hub_that_never_answers_is_not_waited_for(hub: HubServer, monkeypatch) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {})
    limits: list[float] = []
    original = HfApi.model_info

    def model_info(api: HfApi, *args: Any, timeout: float, **options: Any) -> Any:
        limits.append(timeout)
        return original(api, *args, timeout=timeout, **options)

    monkeypatch.setattr(HfApi, "model_info", model_info)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        refused(ResourceError, "connection to the Hub", "timed out")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # it was asked once
            silent.accept()
    assert limits == [0.2] and hub.waits == []


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, ArtifactError, "does not accept your token; log in with `hf auth login`"),
        (403, ArtifactError, "not allowed to read it; log in with `hf auth login`"),
        (400, ArtifactError, "refused the request (400)"),
        (429, ResourceError, "limits the rate of requests (429); wait a few minutes"),
        (500, ResourceError, "internal error (500); try later"),
        (503, ResourceError, "internal error (503)"),
    ],
)
@pytest.mark.parametrize("where", ["GET /api/models", "HEAD .*config.json", "GET /store"])
def test_what_the_hub_answers_is_said(
    hub: HubServer, where: str, status: int, error: type[ImagetokError], says: str
) -> None:
    hub.add(NAME, FILES)
    hub.fail(where, status)
    refused(error, says)


def test_what_is_not_there_or_not_allowed_is_said(hub: HubServer, log_in) -> None:
    hub.add("ann/private", FILES, private=True)
    hub.add("ann/gated", FILES, gated=True)
    hub.add(NAME, FILES)
    for token in (READER, None):
        log_in(token)
        for name in ("ann/missing", "ann/private"):
            refused(ArtifactError, "no such folder", "no such repository", source=name)
        refused(ArtifactError, "its owner's approval", f"{hub.url}/ann/gated", source="ann/gated")
        refused(ArtifactError, "no branch, tag or commit v9", source=f"{NAME}@v9")
        refused(ArtifactError, f"commit {COMMIT}", source=f"{NAME}@{COMMIT}")
        assert contents(fetch(NAME)) == FILES
    log_in("hf_unknown")
    refused(ArtifactError, "does not accept your token", source="ann/missing")


def test_a_transfer_that_is_cut_goes_on_where_it_stopped(hub: HubServer) -> None:
    hub.add(NAME, FILES)
    hub.cut("GET /store/", after=3000, times=1)
    assert contents(fetch(NAME)) == FILES
    assert len(hub.asked("GET /store/")) == 2


def test_a_transfer_that_stays_cut_leaves_nothing_behind(hub: HubServer, fresh_cache) -> None:
    cache = fresh_cache()
    hub.add(NAME, FILES)
    hub.cut("GET /store/", after=3000)
    refused(ResourceError, "connection to the Hub")
    left = [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size >= 3000]
    assert left == [] and not list(cache.rglob("model.safetensors"))
    hub.faults.clear()
    assert contents(fetch(NAME)) == FILES


def test_an_error_of_the_disk_stays_one(hub: HubServer, tmp_path: Path, monkeypatch) -> None:
    hub.add(NAME, FILES)
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "x"))
    with pytest.raises(NotADirectoryError):
        fetch(NAME)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    for name, data in (FILES | {"secret.txt": b"x"}).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_push_is_one_commit_of_the_named_files(hub: HubServer, folder: Path) -> None:
    pushed = push(folder, list(FILES), NAME, message="as measured")
    repo = hub.repos[NAME]
    assert not repo.private and len(repo.commits) == 2  # the Hub's own first one, and ours
    assert repo.refs == {"main": pushed.commit} and pushed.origin == f"{NAME}@{pushed.commit}"
    assert pushed.url == f"{hub.url}/{NAME}/commit/{pushed.commit}"
    assert repo.head().keys() == {*FILES, ".gitattributes"}
    assert push(folder, list(FILES), NAME) == pushed and len(repo.commits) == 2
    (folder / "config.json").write_bytes(b"[]")
    changed = push(folder, list(FILES), NAME)
    assert repo.head()["config.json"] == b"[]" and len(repo.commits) == 3
    assert contents(fetch(pushed.origin)) == FILES != contents(fetch(changed.origin))


def test_a_push_to_a_branch_leaves_main(hub: HubServer, folder: Path) -> None:
    for _ in range(2):
        pushed = push(folder, list(FILES), NAME, revision="v2/try")
    repo = hub.repos[NAME]
    assert repo.refs["v2/try"] == pushed.commit and repo.head().keys() == {".gitattributes"}
    assert contents(fetch(f"{NAME}@v2/try")) == FILES


def test_private_means_private(hub: HubServer, folder: Path) -> None:
    push(folder, list(FILES), NAME, private=True)
    assert hub.repos[NAME].private
    push(folder, list(FILES), NAME, private=True)
    hub.add("ann/public", {})
    with pytest.raises(ConfigError, match=r"found a public one.*/ann/public/settings"):
        push(folder, list(FILES), "ann/public", private=True)
    assert hub.repos["ann/public"].head() == {}


def test_a_push_without_a_token_asks_the_hub_nothing(hub: HubServer, folder: Path, log_in) -> None:
    log_in(None)
    with pytest.raises(ArtifactError, match=r"not logged in.*nothing was uploaded.*hf auth login"):
        push(folder, list(FILES), NAME)
    assert hub.requests == []


@pytest.mark.parametrize("exists", [True, False])
def test_a_push_that_is_not_allowed_changes_nothing(
    hub: HubServer, folder: Path, log_in, exists: bool
) -> None:
    if exists:
        hub.add(NAME, {})
    for token, says in [(READER, "not allowed to write to it"), ("hf_x", "not accept your token")]:
        log_in(token)
        with pytest.raises(ArtifactError, match=rf"{says}; log in with `hf auth login`"):
            push(folder, list(FILES), NAME)
    assert hub.store == {} and (NAME in hub.repos) == exists


@pytest.mark.parametrize(
    ("repo", "revision"),
    [("name", None), ("ann/edvae@v1", None), ("a/b/c", None), (NAME, "a b"), (NAME, COMMIT)],
)
def test_impossible_targets_are_refused(
    hub: HubServer, folder: Path, repo: str, revision: str | None
) -> None:
    with pytest.raises(ConfigError):
        push(folder, list(FILES), repo, revision=revision)
    assert hub.requests == []


@pytest.mark.parametrize("where", ["GET /api/models", "POST .*preupload", "PUT", "POST .*commit"])
def test_a_push_that_fails_leaves_the_branch_as_it_was(
    hub: HubServer, folder: Path, where: str
) -> None:
    before = hub.add(NAME, {"config.json": b"old"})
    hub.fail(where, 500)
    with pytest.raises(ResourceError, match=r"internal error \(500\)"):
        push(folder, list(FILES), NAME)
    assert hub.repos[NAME].refs == {"main": before}
    hub.faults.clear()
    assert hub.repos[NAME].refs == {"main": before}
    assert contents(fetch(push(folder, list(FILES), NAME).origin)) == FILES


def test_an_upload_that_is_cut_is_tried_again(hub: HubServer, folder: Path) -> None:
    hub.cut("PUT", after=1000, times=1)
    push(folder, list(FILES), NAME)
    assert len(hub.asked("PUT")) == 2 and hub.repos[NAME].head() | FILES == hub.repos[NAME].head()


def test_an_upload_that_stays_cut_commits_nothing(hub: HubServer, folder: Path) -> None:
    hub.cut("PUT", after=1000)
    with pytest.raises(ResourceError, match="connection to the Hub"):
        push(folder, list(FILES), NAME)
    assert hub.repos[NAME].head().keys() == {".gitattributes"}
    hub.faults.clear()
    push(folder, list(FILES), NAME)
    assert contents(fetch(NAME)) == FILES


def test_a_card_that_the_hub_refuses_stops_the_push(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: 3\n---\n")
    with pytest.raises(
        ArtifactError, match=r"refused the request \(400\): Invalid metadata in README.md"
    ):
        push(folder, [*FILES, "README.md"], NAME)
    assert hub.store == {}


def test_without_a_network_a_push_fails_at_once(hub: HubServer, folder: Path) -> None:
    hub.stop()
    with pytest.raises(ResourceError, match=r"connection to the Hub .* failed: .*refused"):
        push(folder, list(FILES), NAME)
    assert hub.waits == []
