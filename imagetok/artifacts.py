"""Artifacts (saved models) in folders or on the Hub, and their fingerprints.

An artifact consists of `config.json`, `model.safetensors`, `README.md` and `manifest.json`. No
pickle is ever read or written, and no other file of a repository is downloaded. An artifact is
checked against its architecture and its fingerprint before a model is built from it.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imagetok import hub
from imagetok.durable import (
    MANIFEST,
    canonical_json,
    seal_folder,
    verify_folder,
    write_bytes,
    write_json,
)
from imagetok.errors import ArtifactError, ConfigError, MissingPluginError, ResourceError
from imagetok.io.json_files import read_json
from imagetok.io.markdown import plain
from imagetok.io.regular_files import FileError, check_safetensors
from imagetok.plugins.records import PartRecord, check_available, read_records
from imagetok.suggestions import one_line, shown
from imagetok.version import __version__

FORMAT_VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
NAMES = (CONFIG, MANIFEST, CARD, WEIGHTS)
Kind = Literal["tokenizer", "autoencoder", "prior"]
FILES: dict[Kind, tuple[str, ...]] = {
    "tokenizer": NAMES,
    "autoencoder": NAMES,
    "prior": (*NAMES, *(f"tokenizer/{name}" for name in NAMES)),
}
"""Files of an artifact by kind, in the order in which they are downloaded. An autoencoder is a
model without codes: a VAE."""
MAX_CONFIG_BYTES = 16 << 20
_SHA256 = re.compile("[0-9a-f]{64}")
_NO_CODES = (
    "a continuous autoencoder (a VAE), which has no codes; `imagetok reconstruct`, `evaluate` and "
    "`compare` accept it, but codes need a tokenizer: train a config with tokenizer.quantizer, "
    "such as configs/digits/edvae.yaml"
)
_CHECKPOINT_SUFFIXES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".tar", ".safetensors", ".onnx"}
HERE = "path/to/this/folder"
"""Placeholder in a model card for the folder or repository of the artifact."""


class ArtifactLocation(NamedTuple):
    """The local folder of an artifact, and where it comes from."""

    folder: Path
    """Local folder; for a Hub id, a folder in the cache."""
    origin: str
    """The folder as the caller named it, or user/name@commit."""
    is_fetched: bool
    """Whether the artifact comes from the Hub."""


class Ancestry(NamedTuple):
    """Whose codes a tokenizer has that was made from another one by training its decoder alone.

    In the artifact's config, both are keys; other artifacts have neither.
    """

    codes_fingerprint: str
    """Fingerprint of the tokenizer whose codes it encodes and decodes."""
    encoder_sha256: str
    """Hash of all that codes depend on; see `encoder_hash`."""


_OPTIONAL = {"plugins", *Ancestry._fields}
"""Keys of a config that most artifacts do not have."""


def ancestry_in_words(ancestry: Ancestry) -> str:
    """Return what an ancestry means for codes and priors, as a sentence."""
    return (
        f"Its codes are those of the tokenizer {ancestry.codes_fingerprint}, of which it has "
        "encoder and quantizer: only the decoder was trained again, so code datasets and priors of "
        "that tokenizer fit this one."
    )


class Artifact(NamedTuple):
    """Content of an artifact after all checks that need no model."""

    folder: Path
    """Local folder; for a Hub id, a folder in the cache."""
    origin: str
    """The folder as the caller named it, or user/name@commit."""
    kind: Kind
    architecture: dict[str, Any]
    """Config of the architecture, as plain data."""
    fingerprint: str
    """Fingerprint as stated in the config; see `fingerprint_of`."""
    plugins: tuple[PartRecord, ...] = ()
    """Parts that plugins provide, and who provides them."""
    ancestry: Ancestry | None = None
    """Whose codes a tokenizer has whose decoder alone was trained; None for any other."""

    @property
    def codes_fingerprint(self) -> str:
        """Fingerprint by which codes refer to a tokenizer; see `Tokenizer.codes_fingerprint`."""
        return self.fingerprint if self.ancestry is None else self.ancestry.codes_fingerprint


def fingerprint_of(
    kind: str,
    architecture: dict[str, Any],
    tensors: dict[str, Tensor],
    ancestry: Ancestry | None = None,
) -> str:
    """Return the fingerprint of a model, a hex sha256 that names it.

    It covers the canonical JSON of (format version, kind, architecture, and the ancestry if there
    is one), then for every tensor in order of names: name, dtype, shape, and its contiguous
    little-endian bytes.
    """
    ancestors = {} if ancestry is None else ancestry._asdict()
    return _digest(
        {"format_version": FORMAT_VERSION, "kind": kind, "architecture": architecture, **ancestors},
        tensors,
    )


def encoder_hash(architecture: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Return the hex sha256 of all that a tokenizer's codes depend on.

    It covers the canonical JSON of the architecture, which holds the image contract, and `tensors`,
    those of encoder and quantizer, as `fingerprint_of` covers them.
    """
    return _digest({"architecture": architecture}, tensors)


def _digest(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    digest.update(canonical_json(dict(head)))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_artifact(
    folder: Path,
    kind: str,
    architecture: dict[str, Any],
    model: nn.Module,
    plugins: Sequence[Mapping[str, str]] = (),
    ancestry: Ancestry | None = None,
) -> str:
    """Write config and weights into an existing (staged) folder; return the fingerprint.

    plugins: the parts that plugins provide, as `plugins.records.records_of` returns them. The key
    is absent where there are none, and no part of the fingerprint. ancestry: of a tokenizer whose
    decoder alone was trained.
    Raises ResourceError if the weights cannot be written.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    fingerprint = fingerprint_of(kind, architecture, tensors, ancestry)
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise ResourceError(f"{folder / WEIGHTS}: could not be written ({error})") from error
    write_json(
        folder / CONFIG,
        {
            "format_version": FORMAT_VERSION,
            "imagetok_version": __version__,
            "kind": kind,
            "architecture": architecture,
            "fingerprint": fingerprint,
            **({} if ancestry is None else ancestry._asdict()),
            **({"plugins": list(plugins)} if plugins else {}),
        },
    )
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors writes for its owner alone
    return fingerprint


def locate(
    source: Path | str, kind: Kind | None = None, revision: str | None = None
) -> ArtifactLocation:
    """Locate the artifact of a path or Hub id; downloads the files of a Hub id.

    kind: expected kind; of a repository of another kind only the config is downloaded. revision:
    branch, tag or commit of the Hub id. Raises ArtifactError for a repository that does not exist
    or holds no artifact, ResourceError if the Hub cannot be reached, ConfigError for a revision of
    a local folder.
    """
    if not isinstance(source, str | Path):
        raise ArtifactError(
            f"expected the folder of a {_called(kind)} or a Hub id like user/name, found "
            f"{type(source).__name__}"
        )
    hub_id = hub.parse(source, revision)
    if hub_id is None:
        return ArtifactLocation(Path(source), str(Path(source)), False)
    repository = hub.Repository(hub_id)
    repository.fetch(CONFIG)
    found = kind_in(repository.folder / CONFIG)
    if found is None:
        raise ArtifactError(
            f"{repository.origin}: expected a tokenizer or prior of imagetok, found another "
            f"{CONFIG}; check the repository's name"
        )
    if found in _accepted(kind):
        for name in FILES[found]:
            repository.fetch(name, optional=not is_needed(name))
    return ArtifactLocation(repository.folder, repository.origin, True)


def is_needed(name: str) -> bool:
    """Return whether loading needs a file; card and manifest are optional."""
    return name.endswith((CONFIG, WEIGHTS))


def read_artifact(
    source: Path | str, kind: Kind | None = None, revision: str | None = None
) -> Artifact:
    """Read an artifact's config and check its files; raises ArtifactError.

    source: a folder, or a Hub id user/name[@revision], whose files are downloaded and compared
    with their manifest, if there is one. kind: expected kind; None accepts any, and "autoencoder"
    accepts a tokenizer too.
    """
    place = locate(source, kind, revision)
    config = _read_config(place, kind)
    for name in FILES[config["kind"]]:
        _check_inside(place, name)
    artifact = Artifact(
        place.folder,
        place.origin,
        config["kind"],
        config["architecture"],
        str(config["fingerprint"]),
        _plugins_in(config, f"{place.origin}/{CONFIG}"),
        _ancestry_in(config, f"{place.origin}/{CONFIG}"),
    )
    if place.is_fetched:
        check_manifest(
            artifact,
            f"delete {place.folder.parent.parent} to download it again; if that does not help, ask "
            "its owner to push it again",
        )
    return artifact


def _plugins_in(config: Mapping[str, Any], where: str) -> tuple[PartRecord, ...]:
    try:
        return read_records(config.get("plugins", ()), where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def _ancestry_in(config: Mapping[str, Any], where: str) -> Ancestry | None:
    found = {name: config[name] for name in Ancestry._fields if name in config}
    if not found:
        return None
    if config["kind"] != "tokenizer" or found.keys() != {*Ancestry._fields}:
        raise ArtifactError(
            f"{where}: expected {' and '.join(Ancestry._fields)} together, in a tokenizer's "
            f"config, found {' and '.join(found)} in that of a {config['kind']}; the file is "
            "damaged"
        )
    for name, value in found.items():
        if not (isinstance(value, str) and _SHA256.fullmatch(value)):
            raise ArtifactError(
                f"{where}: {name}: expected 64 hexadecimal digits, found {shown(value)}; the file "
                "is damaged"
            )
    return Ancestry(**found)


def check_plugins(artifact: Artifact) -> None:
    """MissingPluginError where an artifact needs a part that no plugin provides here."""
    check_available(artifact.plugins, artifact.origin, MissingPluginError)


def _accepted(kind: Kind | None) -> tuple[Kind, ...]:
    """Return the kinds that are accepted where `kind` is expected, the most common first."""
    if kind is None:
        return tuple(FILES)
    return ("tokenizer", "autoencoder") if kind == "autoencoder" else (kind,)


def _called(kind: Kind | None) -> str:
    """Return the name of an expected kind for messages."""
    if kind is None:
        return "tokenizer or prior"
    return "tokenizer" if kind == "autoencoder" else kind


def _file_refusal(file: Path, kind: Kind | None) -> str:
    """Return why a file is no artifact, and what to pass instead."""
    what = f"expected the folder of a {_called(kind)} ({CONFIG} and {WEIGHTS})"
    if (file.parent / CONFIG).is_file() and (file.parent / WEIGHTS).is_file():
        return f"{what}, found a file in it; pass {file.parent}"
    if file.suffix in _CHECKPOINT_SUFFIXES:
        return (
            f"{what}, found a checkpoint file of another program, which imagetok does not read; "
            f"`imagetok train` trains a {_called(kind)} and writes it to RUN/{_accepted(kind)[0]}"
        )
    return f"{what}, which `imagetok train` writes to RUN/{_accepted(kind)[0]}, found a file"


def _read_config(place: ArtifactLocation, kind: Kind | None) -> dict[str, Any]:
    folder, path = place.folder, f"{place.origin}/{CONFIG}"
    accepted = _accepted(kind)
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{place.origin}: {_file_refusal(folder, kind)}")
    if not folder.is_dir():
        raise ArtifactError(
            f"{place.origin}: no such folder; expected the folder of a {_called(kind)} with "
            f"{CONFIG} and {WEIGHTS}, which `imagetok train` writes to RUN/{accepted[0]}, or a Hub "
            "id like user/name"
        )
    _check_inside(place, CONFIG)
    if not (folder / CONFIG).exists():
        inner = folder / accepted[0]
        hint = f"; did you mean {inner}?" if (inner / CONFIG).is_file() else ""
        what = f"not a {_called(kind)}" if kind else "not a tokenizer or prior"
        raise ArtifactError(f"{place.origin}: {what}: it has no {CONFIG}{hint}")
    try:
        config = read_json(folder / CONFIG, ArtifactError, MAX_CONFIG_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from None
    fields = {"format_version", "imagetok_version", "kind", "architecture", "fingerprint"}
    if not isinstance(config, dict) or config.keys() - _OPTIONAL != fields:
        raise ArtifactError(
            f"{path}: expected exactly the keys {sorted(fields)}, found others; it is not a config "
            "of imagetok, or damaged"
        )
    if config["format_version"] != FORMAT_VERSION:
        version = one_line(str(config["imagetok_version"]), 64)
        raise ArtifactError(
            f"{path}: expected format {FORMAT_VERSION}, found {shown(config['format_version'])}, "
            f"which imagetok {version} wrote; install that version of imagetok"
        )
    if config["kind"] not in accepted:
        expected = f"a {_called(kind)}"
        raise ArtifactError(
            f"{place.origin}: expected {expected}, found "
            + (_NO_CODES if config["kind"] == "autoencoder" else f"a {config['kind']}")
        )
    if not isinstance(config["architecture"], dict):
        raise ArtifactError(
            f"{path}: architecture: expected a mapping, found "
            f"{type(config['architecture']).__name__}; the file is damaged"
        )
    return config


def _check_inside(place: ArtifactLocation, name: str) -> None:
    """Raise ArtifactError for a link out of the folder, whose target would be copied and pushed.

    In the Hub's cache, files of a commit are links to the cache's folder `blobs`.
    """
    try:
        folder, path = place.folder.resolve(), (place.folder / name).resolve()
    except (OSError, RuntimeError):  # links that form a cycle
        raise ArtifactError(
            f"{place.origin}/{name}: expected a regular file, found a link without a target; put "
            "the file itself there"
        ) from None
    cache = next((p.parent for p in folder.parents if p.name == "snapshots"), None)
    if path.is_relative_to(folder) or (cache and path.is_relative_to(cache / "blobs")):
        if path.exists() and not path.is_file():
            raise ArtifactError(
                f"{place.origin}/{name}: expected a regular file, found a folder or special file"
            )
        return
    raise ArtifactError(
        f"{place.origin}/{name}: expected a file inside the folder, found a link that leads out of "
        "it; put the file itself there"
    )


def kind_in(config: Path) -> Kind | None:
    """Return the kind in a config file; None if it is not a config of imagetok."""
    try:
        kind = read_json(config, max_bytes=MAX_CONFIG_BYTES)["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((known for known in FILES if known == kind), None)


def check_manifest(artifact: Artifact, advice: str = "download or export it again") -> None:
    """Raise ArtifactError if config or weights differ from the manifest, if there is one.

    The card is not compared, because it may be edited. advice: end of the message.
    """
    if (artifact.folder / MANIFEST).is_file():
        faults = verify_folder(artifact.folder, [n for n in FILES[artifact.kind] if is_needed(n)])
        if faults:
            raise ArtifactError(
                f"{artifact.origin}: changed or damaged: {'; '.join(faults)}; {advice}"
            )


def load_weights(artifact: Artifact, kind: str, expected: nn.Module) -> dict[str, Tensor]:
    """Load the artifact's tensors; raises ArtifactError if they do not match `expected`.

    Names, shapes, dtypes and the fingerprint are checked. expected: the architecture on the meta
    device; no memory is allocated before names and shapes agree.
    """
    file_path, path = artifact.folder / WEIGHTS, f"{artifact.origin}/{WEIGHTS}"
    wanted = expected.state_dict()
    try:
        check_safetensors(file_path)
        with safetensors.safe_open(file_path, framework="pt") as file:
            names = sorted(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            if (misfit := _misfit_of_shapes(shapes, wanted)) is not None:
                raise ArtifactError(f"{path}: {misfit}")
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise ArtifactError(f"{artifact.origin}: not a {kind}: it has no {WEIGHTS}") from None
    except FileError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise ArtifactError(
            f"{path}: damaged or truncated ({error}); download or export it again"
        ) from None
    if (misfit := _misfit_of_dtypes(tensors, wanted)) is not None:
        raise ArtifactError(f"{path}: {misfit}")
    found = fingerprint_of(kind, artifact.architecture, tensors, artifact.ancestry)
    if found != artifact.fingerprint:
        raise ArtifactError(
            f"{artifact.origin}: the weights or the config were changed or damaged: expected "
            f"fingerprint {artifact.fingerprint[:16]}, found {found[:16]}; download or export it "
            "again"
        )
    return tensors


def check_ancestry(
    where: str, ancestry: Ancestry, architecture: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Raise ArtifactError for a tokenizer that does not have the encoder that its config states.

    where: the artifact, for the message. architecture, tensors: as for `encoder_hash`.
    """
    found = encoder_hash(architecture, tensors)
    if found != ancestry.encoder_sha256:
        raise ArtifactError(
            f"{where}: expected the encoder and quantizer of tokenizer "
            f"{ancestry.codes_fingerprint[:16]}, whose codes it states to have (encoder_sha256 "
            f"{ancestry.encoder_sha256[:16]}), found others ({found[:16]}): codes of that "
            "tokenizer would be decoded wrongly; train its decoder alone, with --train decoder"
        )


def check_fits(model: nn.Module, expected: nn.Module, folder: Path) -> None:
    """Raise ArtifactError for a model that could not be loaded again after saving.

    expected: the model that the config builds, on the meta device. folder: for the message.
    """
    found, wanted = model.state_dict(), expected.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    misfit = _misfit_of_shapes(shapes, wanted) or _misfit_of_dtypes(found, wanted)
    if misfit is not None:
        raise ArtifactError(
            f"{folder}: not saved, because it could not be loaded again: the model differs from "
            f"its config: {misfit}. Save a model as its config builds it, without replaced modules "
            "or parameters and in its original precision, which .float() restores"
        )


def _misfit_of_shapes(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]
) -> str | None:
    """Describe how names or shapes of tensors differ from the wanted ones; None if they agree."""
    if shapes.keys() != wanted.keys():
        missing = sorted(wanted.keys() - shapes.keys())[:3]
        extra = sorted(shapes.keys() - wanted.keys())[:3]
        return f"the tensors do not match {CONFIG}: missing {missing}, extra {extra}"
    return next(
        (
            f"{name}: expected shape {tuple(tensor.shape)}, found {shapes[name]}"
            for name, tensor in wanted.items()
            if shapes[name] != tuple(tensor.shape)
        ),
        None,
    )


def _misfit_of_dtypes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Describe how dtypes differ from those of tensors of the same names; None if they agree."""
    return next(
        (
            f"{name}: expected {tensor.dtype}, found {found[name].dtype}"
            for name, tensor in wanted.items()
            if found[name].dtype != tensor.dtype
        ),
        None,
    )


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files into a new folder with a manifest of its own."""
    check_manifest(artifact)
    folder.mkdir()
    for name in (CONFIG, WEIGHTS, CARD):
        if (artifact.folder / name).is_file():  # the card may be missing
            shutil.copyfile(artifact.folder / name, folder / name)
    seal_folder(folder)


def push_artifact(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> hub.Pushed:
    """Upload a saved artifact to the Hub in one commit; see `hub.push` for the arguments.

    Only the files of the artifact are uploaded. In the card, the placeholder for the folder is
    replaced by the name of the repository.
    """
    artifact = read_artifact(folder)
    with tempfile.TemporaryDirectory(prefix="imagetok-push-") as temporary:
        staged = Path(temporary)
        for name in FILES[artifact.kind]:
            if (folder / name).is_file():
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).symlink_to((folder / name).resolve())
        if (staged / CARD).is_file():
            card = (staged / CARD).read_bytes().replace(HERE.encode(), repo.encode())
            write_bytes(staged / CARD, card)
        seal_folder(staged)
        names = [name for name in FILES[artifact.kind] if (staged / name).is_file()]
        return hub.push(staged, names, repo, private=private, revision=revision, message=message)


def write_card(
    folder: Path, title: str, tags: list[str], body: list[str], task: str | None = None
) -> None:
    """Write the model card: the Hub's front matter, then the lines of `body`.

    task: the Hub's name for the model's task (`pipeline_tag`), if it has one.
    """
    task_line = [f"pipeline_tag: {task}"] if task else []
    tag_lines = [f"- {tag}" for tag in tags]
    front = ["---", "library_name: imagetok", *task_line, "tags:", *tag_lines, "---"]
    write_bytes(folder / CARD, "\n".join([*front, f"# {title}", "", *body, ""]).encode())


def metrics_table(metrics: Mapping[str, float | int]) -> str:
    """Return a Markdown table of measures, sorted by name so that a resumed run has the same."""
    rows = [f"| {plain(name)} | {value:.6g} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| measure | value |", "|---|---|", *rows])
