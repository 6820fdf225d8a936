"""Verifying artifacts, runs, comparisons and code datasets byte by byte, and pushing artifacts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from imagetok import artifacts
from imagetok.codes.index import verify_index
from imagetok.codes.reader import open_codes
from imagetok.codes.reencode import reencode as encode_again
from imagetok.codes.verify import verify_codes
from imagetok.comparison.folder import comparison_faults, stored_trials
from imagetok.config import read_yaml
from imagetok.data import DataConfig, ImageDataset
from imagetok.data.inputs import open_inputs
from imagetok.data.views import picture_contract
from imagetok.durable import MANIFEST, sha256_file, verify_folder
from imagetok.errors import ArtifactError, ConfigError, InputError, MissingPluginError
from imagetok.inspection import Kind, PushResult, checkpoints_of, kind_of
from imagetok.results import Result
from imagetok.suggestions import counted
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from imagetok.training.checkpoint_record import DISCRIMINATOR, read_finished
from imagetok.training.earlier_artifact import earlier_artifacts
from imagetok.training.metrics_log import records_of
from imagetok.training.run_folder import CONFIG as RUN_CONFIG
from imagetok.training.run_folder import check_plugins

LoadCheck = Callable[[Path], object]
"""Function that loads an artifact's folder; raises InputError if it cannot be loaded."""
LOAD_CHECKS: Mapping[str, LoadCheck] = {
    "tokenizer": Autoencoder.from_pretrained,
    "autoencoder": Autoencoder.from_pretrained,
}
"""Check of artifacts beside their hashes, by kind; the package `prior` adds its own."""


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """Faults of a folder, or of an artifact on the Hub."""

    source: str
    """The folder or Hub id."""
    faults: tuple[str, ...]
    """One line per fault; empty if every byte is as written."""
    num_reencoded: int | None = None
    """Number of images that were encoded again; None if this was not requested."""
    num_codes_differ: int = 0
    """Number of their codes that differ from the dataset."""
    differences: tuple[str, ...] = ()
    """One line per image whose codes differ."""
    note: str = ""
    """Whose codes a good tokenizer has, if its decoder alone was trained again."""

    @property
    def is_good(self) -> bool:
        """Whether there are neither faults nor differences."""
        return not (self.faults or self.differences)

    def title(self) -> str:
        return f"{self.source}: {'good' if self.is_good else 'damaged'}"

    def rows(self) -> dict[str, object]:
        """Return the numbered faults, and the number of images encoded again."""
        lines: list[str] = [*self.faults, *self.differences]
        rows: dict[str, object] = {f"fault {i}": line for i, line in enumerate(lines, 1)}
        if self.num_reencoded is not None:
            rows["images encoded again"] = self.num_reencoded
        return rows | ({"codes": self.note} if self.note else {})


def verify(
    source: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    data: ImageDataset | DataConfig | Path | str | None = None,
    reencode: int | None = None,
    device: torch.device | str | None = None,
) -> Verification:
    """Verify every byte of a tokenizer, run, comparison or code dataset.

    source: a folder, or the Hub id of a tokenizer.
    reencode: also encode about this many images of a code dataset again, in whole micro-batches
    spread over the source, and list those whose codes differ; needs tokenizer and data.
    tokenizer: the tokenizer that made the codes.
    data: the images that were encoded.
    device: device of the tokenizer; None chooses one.
    Raises MissingPluginError where a plugin has to be loaded first, InputError for a folder of
    another kind (`prior.verify` accepts priors too), ConfigError if only some of reencode,
    tokenizer and data are passed.

    >>> imagetok.verify("runs/digits-edvae/tokenizer").is_good
    """
    return verify_with(
        LOAD_CHECKS, source, tokenizer=tokenizer, data=data, reencode=reencode, device=device
    )


def verify_with(
    checks: Mapping[str, LoadCheck],
    source: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None,
    data: ImageDataset | DataConfig | Path | str | None,
    reencode: int | None,
    device: torch.device | str | None,
) -> Verification:
    """Run `verify` with the given checks for each kind of artifact."""
    if len({value is None for value in (reencode, tokenizer, data)}) > 1:
        raise ConfigError(
            "reencode, tokenizer, data: expected all three or none of them, found only some"
        )
    faults = faults_of(source, checks)
    if faults or reencode is None or tokenizer is None or data is None:
        return Verification(str(source), tuple(faults), note="" if faults else _note(source))
    codes = open_codes(source)
    model = open_tokenizer(tokenizer, device).at_grids(codes.grids)
    form = picture_contract(codes.plan.image, codes.plan.crop_range)
    found = encode_again(codes, model, open_inputs(data, form).dataset, reencode)
    lines = tuple(f"{d.path}: {d.codes} of {counted(d.of, 'code')}" for d in found.differences)
    differ = sum(d.codes for d in found.differences)
    return Verification(str(source), (), found.images, differ, lines)


def _note(source: Path | str) -> str:
    """Return whose codes an intact tokenizer has, if its decoder alone was trained again."""
    if kind_of(artifacts.locate(source).folder) != "tokenizer":
        return ""
    ancestry = artifacts.read_artifact(source, "tokenizer").ancestry
    return "" if ancestry is None else artifacts.ancestry_in_words(ancestry)


def faults_of(source: Path | str, checks: Mapping[str, LoadCheck]) -> list[str]:
    """Return the faults of a folder, or of an artifact on the Hub, one line each."""
    place = artifacts.locate(source)
    path = place.folder
    match kind_of(path):
        case "codes":
            return verify_codes(path)
        case "code index":
            return verify_index(path)
        case "run":
            return _run_faults(path, checks)
        case "comparison":
            return _comparison_faults(path, checks)
        case kind:
            check = _check_of(kind, path, checks)
            # The cache may hold other files of the repository too.
            names = artifacts.FILES[kind] if place.is_fetched else None
            faults = verify_folder(path, names) if (path / MANIFEST).is_file() else []
            return faults or _load_faults(path, check)


def push(
    folder: Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> PushResult:
    """Verify a tokenizer's folder and upload it to the Hugging Face Hub in one commit.

    repo: `user/name`; created if it does not exist.
    private: make a new repository private.
    revision: a branch, `main` by default; created if it does not exist.
    message: the commit message.
    Raises InputError for a folder of another kind (`prior.push` accepts priors too), ArtifactError
    for a damaged one or without permission, ResourceError if the Hub cannot be reached.

    >>> imagetok.push("runs/digits-edvae/tokenizer", "user/digits-edvae").origin
    """
    return push_with(LOAD_CHECKS, folder, repo, private, revision, message)


def push_with(
    checks: Mapping[str, LoadCheck],
    folder: Path | str,
    repo: str,
    private: bool,
    revision: str | None,
    message: str | None,
) -> PushResult:
    """Run `push` with the given checks for each kind of artifact."""
    path = Path(folder)
    kind = kind_of(path)
    if kind == "run":
        made = map(str, _artifacts_of(path))
        hint = " or ".join(f"`imagetok push {m} {repo}`" for m in made) or "it has none yet"
        raise InputError(
            f"{path}: expected a tokenizer or prior, found a run; push its artifact: {hint}"
        )
    if kind in ("codes", "comparison"):
        what = "code dataset" if kind == "codes" else kind
        raise InputError(f"{path}: expected a tokenizer or prior, found a {what}")
    check = _check_of(kind, path, checks)
    artifacts.check_manifest(artifacts.read_artifact(path))
    faults = _load_faults(path, check)
    if faults:
        raise ArtifactError("; ".join(faults))
    pushed = artifacts.push_artifact(
        path, repo, private=private, revision=revision, message=message
    )
    return PushResult(kind, pushed.repo, pushed.commit, pushed.url)


def _check_of(kind: Kind, path: Path, checks: Mapping[str, LoadCheck]) -> LoadCheck:
    if kind not in checks:
        raise InputError(f"{path}: is a {kind}; use `{kind}.verify` or `{kind}.push` for it")
    return checks[kind]


def _load_faults(path: Path, check: LoadCheck) -> list[str]:
    """Return the error that loading an artifact raises, if any; raises MissingPluginError."""
    try:
        check(path)
    except MissingPluginError:  # nothing is damaged
        raise
    except InputError as error:
        return [str(error)]
    return []


def _run_faults(run: Path, checks: Mapping[str, LoadCheck]) -> list[str]:
    """Return the faults of a run's checkpoints, config, logs and artifacts."""
    faults = [fault for checkpoint in checkpoints_of(run) for fault in verify_folder(checkpoint)]
    try:
        read_yaml(run / RUN_CONFIG)
    except ConfigError as error:
        faults.append(str(error))
    for name in ("metrics.jsonl", "timing.jsonl"):  # these have no hash
        try:
            for _ in records_of(run / name):
                pass
        except FileNotFoundError:
            faults.append(f"{run / name}: missing")
        except InputError as error:
            faults.append(str(error))
    faults += _discriminator_faults(run)
    return faults + [f for folder in _artifacts_of(run) for f in faults_of(folder, checks)]


def _discriminator_faults(run: Path) -> list[str]:
    """Return the fault of the discriminator of a finished run; none if it had no adversary."""
    try:
        finished = read_finished(run)
        expected = None if finished is None else finished.discriminator
        if expected is None or sha256_file(run / DISCRIMINATOR) == expected:
            return []
    except InputError as error:
        return [str(error)]
    except FileNotFoundError:
        return [f"{run / DISCRIMINATOR}: missing; `imagetok train --resume` writes it again"]
    return [f"{run / DISCRIMINATOR}: its sha256 differs from the recorded one"]


def _artifacts_of(run: Path) -> list[Path]:
    """Return a run's artifacts: the newest ones, then those of its earlier ends."""
    newest = [run / name for name in ("tokenizer", "prior")]
    return [*filter(Path.is_dir, newest), *(p for one in newest for p in earlier_artifacts(one))]


def _comparison_faults(folder: Path, checks: Mapping[str, LoadCheck]) -> list[str]:
    """Return the faults of a comparison's own files, its runs, and their codes and priors."""
    trials = stored_trials(folder)
    faults = [fault for trial in trials for fault in _plugin_faults(trial.folder)]
    faults += comparison_faults(folder)
    for trial in trials:
        follow_up_folder = trial.folder.with_name(f"{trial.folder.name}-later")
        parts = [trial.folder, *(follow_up_folder / "codes" / split for split in ("train", "test"))]
        for part in (*parts, follow_up_folder / "prior"):
            begun = part / ("plan.json" if part.parent.name == "codes" else RUN_CONFIG)
            if begun.is_file():
                faults += _unless_refused(part, checks)
    return faults


def _plugin_faults(run: Path) -> list[str]:
    """Return the fault of a run's record of its plugins; raises MissingPluginError for a plugin."""
    try:
        check_plugins(run, MissingPluginError)
    except MissingPluginError:
        raise
    except (ConfigError, InputError) as error:
        return [str(error)]
    return []


def _unless_refused(part: Path, checks: Mapping[str, LoadCheck]) -> list[str]:
    """Return the faults of a part; an error for the whole part is one fault."""
    try:
        return faults_of(part, checks)
    except MissingPluginError:
        raise
    except InputError as error:
        return [str(error)]
