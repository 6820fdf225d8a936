"""Repositories on the Hugging Face Hub: what names one, fetching files of one commit, pushing.

Files are fetched by huggingface_hub into its own cache, where other programs find them too. It is
imported when first used. Whatever it raises becomes one message here.
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
"""Seconds that the first request to the Hub may take; without it, no network means a long wait."""
_PART = 10 << 20
"""Bytes that huggingface_hub receives before it tells its progress."""

_NAME = r"\w(?:[\w.-]{0,94}\w)?"
_REPO = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubId(NamedTuple):
    """`user/name[@revision]`."""

    repo: str
    revision: str | None = None
    """A branch, a tag or a commit; None is the branch `main`."""

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Whether it always names the same files."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


class Pushed(NamedTuple):
    """A commit that holds what was pushed."""

    repo: str
    commit: str
    url: str
    """Of the commit's page."""

    @property
    def origin(self) -> str:
        """`user/name@commit`, which can be loaded."""
        return f"{self.repo}@{self.commit}"


def parse(source: Path | str, revision: str | None = None) -> HubId | None:
    """The Hub id that a source is, or None where it is a local path.

    Local are a Path, a path that exists, and whatever has not the form of a Hub id. Raises
    ConfigError for a revision of a local path, for two revisions, and for an impossible one.
    """
    hub_id = None if isinstance(source, Path) else _split(source)
    if hub_id is None or Path(source).exists():
        if revision is not None:
            raise ConfigError(
                f"{source}: is a local path, and revision ({revision!r}) is for Hub ids only"
            )
        return None
    if revision is None or revision == hub_id.revision:
        return hub_id
    if hub_id.revision is not None:
        raise ConfigError(f"{source}: two revisions are given, {hub_id.revision} and {revision}")
    return HubId(hub_id.repo, checked_revision(revision))


def checked_repo(repo: str) -> str:
    """`repo` if it has the form user/name; else ConfigError."""
    hub_id = _split(repo)
    if hub_id is None or hub_id.revision is not None:
        raise ConfigError(f"expected a repository like user/name, found {repo!r}")
    return repo


def checked_revision(revision: str) -> str:
    """`revision` if a branch, a tag or a commit can have this name; else ConfigError."""
    if not _is_revision(revision):
        raise ConfigError(f"revision: expected a branch, a tag or a commit, found {revision!r}")
    return revision


def same_commit(asked: str, recorded: str) -> str:
    """`recorded` where it is a commit of the repository that `asked` names without one."""
    wanted, known = parse(asked), parse(recorded)
    if wanted is None or known is None or wanted.is_commit or not known.is_commit:
        return asked
    return recorded if wanted.repo == known.repo else asked


def _split(text: str) -> HubId | None:
    repo, separator, revision = text.partition("@")
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith(".git"):
        return None
    if not separator:
        return HubId(repo)
    return HubId(repo, revision) if _is_revision(revision) else None


def _is_revision(text: str) -> bool:
    # It becomes a file name in the cache, so `..` must not get there.
    return _REVISION.fullmatch(text) is not None and ".." not in text


class Repository:
    """One commit of a repository, whose files are fetched one by one.

    The first file settles the commit, and the others are of the same one. A file in the cache is
    taken from there; without the Hub, a branch is what it was when it was last fetched.
    """

    def __init__(self, hub_id: HubId):
        self.hub_id = hub_id
        self._commit = hub_id.revision if hub_id.is_commit else None
        self._folder: Path | None = None
        self._is_reachable: bool | None = None
        self._problem = ""

    @property
    def folder(self) -> Path:
        """The commit's folder in the cache; once a file was fetched."""
        assert self._folder is not None
        return self._folder

    @property
    def origin(self) -> str:
        """`user/name@commit`; once a file was fetched."""
        return f"{self.hub_id.repo}@{self._commit}"

    def fetch(self, name: str, *, optional: bool = False) -> None:
        """Have a file in the folder.

        A file that the repository does not have is an ArtifactError, one that can be had neither
        from the Hub nor from the cache is a ResourceError; neither, where it is optional.
        """
        path = self._find(name)
        if path is not None:
            self._settle(path.parents[name.count("/")])
        elif not optional:
            raise self._missing(name)

    def _find(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        if self._commit is None and self._can_be_reached():  # only the Hub knows where a branch is
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
        """Ask the Hub, once, and without the library's half-minute of retries."""
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
            except LocalEntryNotFoundError:  # the Hub stopped to answer
                raise
            except EntryNotFoundError:
                return None
        return Path(path)

    def _settle(self, folder: Path) -> None:
        """Take the commit of the first file; refuse a file of another one."""
        commit = folder.name
        if not _COMMIT.fullmatch(commit) or self._commit not in (None, commit):
            raise ArtifactError(
                f"{self.hub_id}: expected a file of commit {self._commit or '(40 hex digits)'}, "
                f"the Hub sent one of {commit!r}"
            )
        if self._commit is None and self._problem:
            logger.warning("%s; using what the cache has, commit %s", self._problem, commit)
        elif self._commit is None:
            logger.info("%s: commit %s", self.hub_id, commit)
        self._commit, self._folder = commit, folder

    def _reading(self) -> AbstractContextManager[None]:
        name = f"{self.hub_id} (no such folder here, so taken as a Hub id)"
        return _explained(self.hub_id, name, "read")

    def _missing(self, name: str) -> ImagetokError:
        if self._problem:
            return ResourceError(
                f"{self._problem}. The cache does not have its {name} either. Connect and run this "
                f"again; or run `imagetok inspect {self.hub_id}` once while connected, which "
                "fetches it; or give the path of a local folder"
            )
        return ArtifactError(
            f"{self.hub_id}: the Hub's repository has no {name}; expected a tokenizer or a prior "
            "as `imagetok push` shares it"
        )


def push(
    folder: Path,
    names: Sequence[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Put the named files of a folder into a repository, in one commit; makes what is not there.

    private: of a new repository; one that exists and is public is refused. revision: a branch,
    made if need be. Where the files are there already, the branch's commit is returned. Raises
    ArtifactError where the Hub does not allow it, ResourceError where it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    target = HubId(checked_repo(repo), revision and checked_revision(revision))
    if target.is_commit:
        raise ConfigError(f"revision: {revision} is a commit; give the name of a branch")
    api = _api()
    with _explained(target, str(target), "write to"):
        _check_logged_in(target)
        _make(api, target, private)
        # Not upload_folder: it may spread the files over several commits.
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
            f"{target}: not logged in to the Hub, so nothing was uploaded; make a token that may "
            f"write at {_api().endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN"
        )


def _make(api: "HfApi", target: HubId, private: bool) -> None:
    """See that repository and branch exist."""
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
                f"{target.repo}: exists and is public, so --private cannot be; nothing was "
                f"uploaded. Make it private at {_page(target)}/settings, or choose another name"
            )
    if target.revision is not None:
        api.create_branch(target.repo, branch=target.revision, exist_ok=True)


def _counting(progress: TransferProgress) -> Any:
    """The library's progress bar, which also tells how much was received."""
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
    """Turn what the library raises into one message that begins with `name`.

    right: what the user must be allowed to do with the repository. An error of the local disk
    stays what it is.
    """
    try:
        yield
    except (ImagetokError, MemoryError):
        raise
    except Exception as error:  # httpx's too, which differ from version to version
        is_network = isinstance(error, ConnectionError | TimeoutError)
        if isinstance(error, OSError) and error.errno is not None and not is_network:
            raise
        raise _refusal(error, hub_id, name, right) from error


def _refusal(error: Exception, hub_id: HubId, name: str, right: str) -> ImagetokError:
    from huggingface_hub import errors

    causes = _causes(error)
    log_in = f"log in with `hf auth login`, with a token that may {right} it"
    answer = next((cause for cause in causes if isinstance(cause, errors.HfHubHTTPError)), None)
    if answer is None:
        return ResourceError(
            f"{name}: the connection to the Hub ({_api().endpoint}) failed: {_reason(causes)}"
        )
    if isinstance(answer, errors.GatedRepoError):
        return ArtifactError(
            f"{name}: its owner decides who may have it; ask at {_page(hub_id)}, then {log_in}"
        )
    if isinstance(answer, errors.RevisionNotFoundError):
        return ArtifactError(
            f"{name}: the repository has no branch, tag or commit "
            f"{hub_id.revision or 'main'}; see {_page(hub_id)}/tree/main"
        )
    if isinstance(answer, errors.RepositoryNotFoundError):
        return ArtifactError(
            f"{name}: no such repository on the Hub ({_page(hub_id)}); check the name, or "
            f"{log_in} if it is private"
        )
    match answer.response.status_code:
        case 401:
            return ArtifactError(f"{name}: the Hub does not accept your token; {log_in}")
        case 403:
            return ArtifactError(f"{name}: you are not allowed to {right} it; {log_in}")
        case 429:
            return ResourceError(
                f"{name}: the Hub answers that you ask too often (429); wait a few minutes, or "
                "log in with `hf auth login`, which allows more"
            )
        case status if status >= 500:
            return ResourceError(f"{name}: the Hub has a fault of its own ({status}); try later")
        case status:
            return ArtifactError(
                f"{name}: the Hub refuses it ({status}): {' '.join(str(error).split())}"
            )


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what led to it, the root last."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and cause not in found:
        found.append(cause)
    return found


def _reason(causes: Sequence[BaseException]) -> str:
    """The first line of the deepest error that says something."""
    lines = [line.strip() for cause in causes for line in str(cause).splitlines()[:1]]
    return next((line for line in reversed(lines) if line), type(causes[-1]).__name__).rstrip(".")
