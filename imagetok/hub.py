"""Repositories on the Hugging Face Hub: ids, downloading files of one commit, pushing.

huggingface_hub downloads files into its own cache, which other programs share. It is imported when
first used, and its errors are converted to one clear message each.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imagetok.errors import ArtifactError, ConfigError, ImagetokError, ResourceError
from imagetok.io.timeouts import TransferProgress, within_time_limit
from imagetok.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger("imagetok")
TIMEOUT = 5.0
"""Seconds that the first request to the Hub may take, so that no network is noticed quickly."""
_PART = 10 << 20
"""Number of bytes that huggingface_hub receives between two updates of its progress."""

_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_REPO = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubId(NamedTuple):
    """A repository on the Hub, optionally at a revision: `user/name[@revision]`."""

    repo: str
    """Name of the repository, `user/name`."""
    revision: str | None = None
    """A branch, tag or commit; None is the branch `main`."""

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a commit, which always names the same files."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


class Pushed(NamedTuple):
    """The commit of a push."""

    repo: str
    """Name of the repository, `user/name`."""
    commit: str
    """Hash of the commit, 40 hexadecimal digits."""
    url: str
    """URL of the commit's page."""

    @property
    def origin(self) -> str:
        """Hub id of the commit, `user/name@commit`, from which it can be loaded."""
        return f"{self.repo}@{self.commit}"


def parse(source: Path | str, revision: str | None = None) -> HubId | None:
    """Parse a source as a Hub id; None for a local path.

    Local paths are Path objects, paths that exist, and texts without the form of a Hub id. Raises
    ConfigError for a revision of a local path, two different revisions, or an invalid one.
    """
    hub_id = None if isinstance(source, Path) else _split(source)
    if hub_id is None or Path(source).exists():
        if revision is not None:
            raise ConfigError(
                f"{source}: expected a Hub id with revision {revision!r}, found a local path; "
                "leave the revision out"
            )
        return None
    if revision is None or revision == hub_id.revision:
        return hub_id
    if hub_id.revision is not None:
        raise ConfigError(
            f"{source}: expected one revision, found {hub_id.revision} and {revision}; name it once"
        )
    return HubId(hub_id.repo, checked_revision(revision))


def checked_repo(repo: str) -> str:
    """Return `repo` if it has the form user/name; raises ConfigError otherwise."""
    hub_id = _split(repo)
    if hub_id is None or hub_id.revision is not None:
        raise ConfigError(f"expected a repository like user/name, found {repo!r}")
    return repo


def checked_revision(revision: str) -> str:
    """Return `revision` if it is a valid name of a branch, tag or commit; else ConfigError."""
    if not _is_revision(revision):
        raise ConfigError(f"revision: expected a branch, a tag or a commit, found {revision!r}")
    return revision


def same_commit(source: str, recorded: str) -> str:
    """Return `recorded` if it is a commit of the repository that `source` names, else `source`.

    So a rerun uses the recorded commit instead of the newest one. A `source` that names a commit
    itself is returned unchanged.
    """
    wanted, known = parse(source), parse(recorded)
    if wanted is None or known is None or wanted.is_commit or not known.is_commit:
        return source
    return recorded if wanted.repo == known.repo else source


def _split(text: str) -> HubId | None:
    repo, separator, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith(".git"):
        return None
    if not separator:
        return HubId(repo)
    return HubId(repo, revision) if _is_revision(revision) else None


def _is_revision(text: str) -> bool:
    # It becomes part of a path in the cache, so it must not contain `..`.
    return _REVISION.fullmatch(text) is not None and ".." not in text


class Repository:
    """One commit of a repository, whose files are downloaded one by one.

    The first file determines the commit, and all others come from the same one. Files in the cache
    are not downloaded again. Without a connection, a branch is the cached commit.
    """

    def __init__(self, hub_id: HubId):
        self.hub_id = hub_id
        self._commit = hub_id.revision if hub_id.is_commit else None
        self._folder: Path | None = None
        self._is_reachable: bool | None = None
        self._problem = ""

    @property
    def folder(self) -> Path:
        """Folder of the commit in the cache; known after the first `fetch`."""
        assert self._folder is not None
        return self._folder

    @property
    def origin(self) -> str:
        """Hub id `user/name@commit`; known after the first `fetch`."""
        return f"{self.hub_id.repo}@{self._commit}"

    def fetch(self, name: str, *, optional: bool = False) -> None:
        """Make a file available in the folder.

        Raises ArtifactError if the repository does not have the file, ResourceError if neither the
        Hub nor the cache provides it. optional: raise neither.
        """
        if self.find(name) is None and not optional:
            raise self.missing(
                name, "expected a tokenizer or prior that was uploaded with `imagetok push`"
            )

    def find(self, name: str) -> Path | None:
        """Return a file of the commit, downloaded if it must be; None if there is none.

        None is returned too if neither the Hub nor the cache can tell; see `missing`.
        """
        path = self._find(name)
        if path is not None:
            self._settle(path.parents[name.count("/")])
        return path

    def _find(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        if self._commit is None and self._can_be_reached():  # the Hub knows the branch's commit
            return self._download(name)
        cached = try_to_load_from_cache(self.hub_id.repo, name, revision=self._revision())
        if isinstance(cached, str):
            return Path(cached)
        is_known_to_be_absent = cached is not None
        if is_known_to_be_absent or not self._can_be_reached():
            return None
        return self._download(name)

    def _revision(self) -> str | None:
        return self._commit or self.hub_id.revision

    def _can_be_reached(self) -> bool:
        """Return whether the Hub answers; asks once, without the library's 30 s of retries."""
        if self._is_reachable is None:
            try:
                with self._reading():
                    within_time_limit(
                        lambda _: _api().model_info(self.hub_id.repo, timeout=TIMEOUT)
                    )
                self._is_reachable = True
            except ResourceError as error:
                self._problem = str(error)
                self._is_reachable = False
        return self._is_reachable

    def _download(self, name: str) -> Path | None:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        with self._reading():
            try:
                path = within_time_limit(
                    lambda progress: _api().hf_hub_download(
                        self.hub_id.repo,
                        name,
                        revision=self._revision(),
                        tqdm_class=_counting(progress),
                    ),
                    _PART,
                )
            except LocalEntryNotFoundError:  # the Hub stopped answering
                raise
            except EntryNotFoundError:
                return None
        return Path(path)

    def _settle(self, folder: Path) -> None:
        """Adopt the commit of the first file; raise ArtifactError for a file of another one."""
        commit = folder.name
        if not _COMMIT.fullmatch(commit) or self._commit not in (None, commit):
            raise ArtifactError(
                f"{self.hub_id}: expected a file of commit {self._commit or '(40 hex digits)'}, "
                f"found one of {commit!r} from the Hub; try again"
            )
        if self._commit is None and self._problem:
            logger.warning("%s; using the cached commit %s", self._problem, commit)
        elif self._commit is None:
            logger.info("%s: commit %s", self.hub_id, commit)
        self._commit, self._folder = commit, folder

    def _reading(self) -> AbstractContextManager[None]:
        name = f"{self.hub_id} (no such folder, so read as a Hub id)"
        return _explained(self.hub_id, name, "read")

    def missing(self, name: str, advice: str) -> ImagetokError:
        """Return the error for a file that `find` did not find: it is not there, or no network."""
        if self._problem:
            return ResourceError(
                f"{self._problem}. The cache does not have its {name} either. Connect to the "
                f"network and try again; or run `imagetok inspect {self.hub_id}` once while "
                "connected, which downloads it; or pass the path of a local folder"
            )
        return ArtifactError(f"{self.hub_id}: the repository on the Hub has no {name}; {advice}")


def push(
    folder: Path,
    names: Sequence[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload the named files of a folder to a repository in one commit.

    The repository and the branch `revision` are created if they do not exist. private: create a
    private repository; ConfigError for an existing public one. message: the commit message. If the
    files are in the branch already, its commit is returned. Raises ConfigError for an invalid name,
    ArtifactError without permission, ResourceError if the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    target = HubId(checked_repo(repo), revision and checked_revision(revision))
    if target.is_commit:
        raise ConfigError(f"revision: expected the name of a branch, found the commit {revision}")
    api = _api()
    with _explained(target, str(target), "write to"):
        _check_logged_in(target)
        _make(api, target, private)
        # Not upload_folder, which may distribute the files over several commits.
        info = api.create_commit(
            repo,
            [CommitOperationAdd(name, folder / name) for name in names],
            commit_message=message or "Share with imagetok",
            revision=revision,
        )
    return Pushed(repo, info.oid, info.commit_url)


def _check_logged_in(target: HubId) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise ArtifactError(
            f"{target}: not logged in to the Hub, so nothing was uploaded; create a token with "
            f"write access at {_api().endpoint}/settings/tokens, then run `hf auth login` or set "
            "HF_TOKEN"
        )


def _make(api: "HfApi", target: HubId, private: bool) -> None:
    """Create the repository and the branch if they do not exist."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = api.model_info(target.repo, timeout=TIMEOUT)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(target.repo, private=private or None, exist_ok=True)
    else:
        if private and not found.private:
            raise ConfigError(
                f"{target.repo}: expected a private repository for --private, found a public one; "
                f"nothing was uploaded. Make it private at {_page(target)}/settings, or choose "
                "another name"
            )
    if target.revision is not None:
        api.create_branch(target.repo, branch=target.revision, exist_ok=True)


def _counting(progress: TransferProgress) -> Any:
    """Return a class of the library's progress bar that also updates `progress`."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n: float | int | None = 1) -> bool | None:
            progress.received += int(n or 0)
            if progress.is_over:
                raise TimeoutError
            return super().update(n)

    return Bar


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="imagetok", library_version=__version__)


def _page(hub_id: HubId) -> str:
    return f"{_api().endpoint}/{hub_id.repo}"


@contextmanager
def _explained(hub_id: HubId, name: str, right: str) -> Iterator[None]:
    """Convert the library's errors to one message that begins with `name`.

    right: the permission that is needed, as a verb. Errors of the local disk are not converted.
    """
    try:
        yield
    except (ImagetokError, MemoryError):
        raise
    except Exception as error:  # also those of httpx, which differ between versions
        is_network = isinstance(error, ConnectionError | TimeoutError)
        if isinstance(error, OSError) and error.errno is not None and not is_network:
            raise
        raise _refusal(error, hub_id, name, right) from error


def _refusal(error: Exception, hub_id: HubId, name: str, right: str) -> ImagetokError:
    from huggingface_hub import errors

    causes = _causes(error)
    log_in = f"log in with `hf auth login` and a token that is allowed to {right} it"
    answer = next((cause for cause in causes if isinstance(cause, errors.HfHubHTTPError)), None)
    if answer is None:
        return ResourceError(
            f"{name}: the connection to the Hub ({_api().endpoint}) failed: {_reason(causes)}"
        )
    if isinstance(answer, errors.GatedRepoError):
        return ArtifactError(
            f"{name}: access needs its owner's approval; request it at {_page(hub_id)}, then "
            f"{log_in}"
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return ArtifactError(
            f"{name}: the repository has no branch, tag or commit "
            f"{hub_id.revision or 'main'}; see {_page(hub_id)}/tree/main"
        )
    if isinstance(answer, errors.RepositoryNotFoundError):
        return ArtifactError(
            f"{name}: no such repository on the Hub ({_page(hub_id)}); check the name, or, if it "
            f"is private, {log_in}"
        )
    match answer.response.status_code:
        case 401:
            return ArtifactError(f"{name}: the Hub does not accept your token; {log_in}")
        case 403:
            return ArtifactError(f"{name}: you are not allowed to {right} it; {log_in}")
        case 429:
            return ResourceError(
                f"{name}: the Hub limits the rate of requests (429); wait a few minutes, or log in "
                "with `hf auth login` for a higher limit"
            )
        case status if status >= 500:
            return ResourceError(f"{name}: the Hub has an internal error ({status}); try later")
        case status:
            return ArtifactError(
                f"{name}: the Hub refused the request ({status}): {' '.join(str(error).split())}"
            )


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and its causes, the root cause last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def _reason(causes: Sequence[BaseException]) -> str:
    """Return the first line of the deepest error that has a text."""
    lines = [line.strip() for cause in causes for line in str(cause).splitlines()[:1]]
    return next((line for line in reversed(lines) if line), type(causes[-1]).__name__).rstrip(".")
