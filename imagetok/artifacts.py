"""Artifacts, in a folder or on the Hub: `config.json`, `model.safetensors`, `README.md`,
`manifest.json`, and their fingerprint.

No pickle is ever read or written, and of a repository no file but these is fetched. An artifact is
checked against its architecture and its fingerprint before a model is built from it.
"""

import hashlib
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
from imagetok.errors import ArtifactError, ConfigError, ResourceError
from imagetok.io.json_files import read_json
from imagetok.io.markdown import plain
from imagetok.io.regular_files import FileError, check_safetensors
from imagetok.plugins.records import PartRecord, check_available, read_records
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
"""Every file of an artifact, by kind, in the order in which they are fetched. An autoencoder is a
tokenizer but for codes, of which it has none: a VAE."""
MAX_CONFIG_BYTES = 16 << 20
_NO_CODES = (
    "a continuous autoencoder (a VAE), which has no codes; `imagetok reconstruct`, `evaluate` and "
    "`compare` take it, but codes need a tokenizer: train a config with tokenizer.quantizer, such "
    "as configs/digits/edvae.yaml"
)
HERE = "path/to/this/folder"
"""What a model card calls the folder that it lies in."""


class ArtifactLocation(NamedTuple):
    """Where an artifact lies."""

    folder: Path
    """A local one; of a Hub id, in the cache."""
    origin: str
    """The folder as it was given, or user/name@commit."""
    is_fetched: bool
    """Whether it was on the Hub."""


class Artifact(NamedTuple):
    """An artifact's content after the checks that need no model."""

    folder: Path
    origin: str
    """The folder as it was given, or user/name@commit."""
    kind: Kind
    architecture: dict[str, Any]
    fingerprint: str
    plugins: tuple[PartRecord, ...] = ()
    """The parts that are not imagetok's, and who provides them."""


def fingerprint_of(kind: str, architecture: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Hex sha256 that binds codes to what made them.

    Hashes the canonical JSON of (format, kind, architecture), then every tensor by name: name,
    dtype, shape, and its little-endian contiguous bytes.
    """
    digest = hashlib.sha256()
    digest.update(
        canonical_json(
            {"format_version": FORMAT_VERSION, "kind": kind, "architecture": architecture}
        )
    )
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
) -> str:
    """Put config and weights into an existing (staged) folder; returns the fingerprint.

    plugins: the parts that are not imagetok's, as `plugins.records_of` gives them; the key is
    absent where there are none, and no part of the fingerprint.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    fingerprint = fingerprint_of(kind, architecture, tensors)
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
            **({"plugins": list(plugins)} if plugins else {}),
        },
    )
    return fingerprint


def locate(
    source: Path | str, kind: Kind | None = None, revision: str | None = None
) -> ArtifactLocation:
    """The folder that a path or a Hub id stands for; of a Hub id, the artifact's files are fetched.

    kind: of a repository of another kind, only the config is fetched. Raises ArtifactError for a
    repository that is not there or holds no artifact, ResourceError where the Hub cannot be
    reached, ConfigError for a revision of a local folder.
    """
    hub_id = hub.parse(source, revision)
    if hub_id is None:
        return ArtifactLocation(Path(source), str(Path(source)), False)
    repository = hub.Repository(hub_id)
    repository.fetch(CONFIG)
    found = kind_in(repository.folder / CONFIG)
    if found is None:
        raise ArtifactError(
            f"{repository.origin}: is no tokenizer or prior of imagetok, by its {CONFIG}"
        )
    if found in _accepted(kind):
        for name in FILES[found]:
            repository.fetch(name, optional=not is_needed(name))
    return ArtifactLocation(repository.folder, repository.origin, True)


def is_needed(name: str) -> bool:
    """Whether a file is part of what is loaded; card and manifest may be missing."""
    return name.endswith((CONFIG, WEIGHTS))


def read_artifact(
    source: Path | str, kind: Kind | None = None, revision: str | None = None
) -> Artifact:
    """Check an artifact's form and config; ArtifactError says what is wrong and where.

    source: a folder, or a Hub id user/name[@revision], whose files are then fetched and compared
    with their manifest, if there is one. kind: None takes any, `autoencoder` a tokenizer too.
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
    )
    if place.is_fetched:
        check_manifest(
            artifact,
            f"delete {place.folder.parent.parent} to fetch it again; if that does not help, ask "
            "its owner to push it again",
        )
    return artifact


def _plugins_in(config: Mapping[str, Any], where: str) -> tuple[PartRecord, ...]:
    try:
        return read_records(config.get("plugins", ()), where)
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def check_plugins(artifact: Artifact) -> None:
    """ArtifactError where an artifact needs a part that no loaded or installed plugin provides."""
    check_available(artifact.plugins, artifact.origin, ArtifactError)


def _accepted(kind: Kind | None) -> tuple[Kind, ...]:
    """The kinds that may stand where one is asked for; the most usual first."""
    if kind is None:
        return tuple(FILES)
    return ("tokenizer", "autoencoder") if kind == "autoencoder" else (kind,)


def _called(kind: Kind | None) -> str:
    """What users call it: a tokenizer or a VAE stands where an autoencoder is asked for."""
    if kind is None:
        return "tokenizer or prior"
    return "tokenizer" if kind == "autoencoder" else kind


def _read_config(place: ArtifactLocation, kind: Kind | None) -> dict[str, Any]:
    folder, path = place.folder, f"{place.origin}/{CONFIG}"
    accepted = _accepted(kind)
    if not folder.is_dir():
        raise ArtifactError(
            f"{place.origin}: no such folder; expected a {_called(kind)}, as "
            f"`imagetok train` leaves it in RUN/{accepted[0]}, with {CONFIG} and "
            f"{WEIGHTS}, or a Hub id like user/name"
        )
    _check_inside(place, CONFIG)
    if not (folder / CONFIG).exists():
        inner = folder / accepted[0]
        hint = f"; did you mean {inner}?" if (inner / CONFIG).is_file() else ""
        what = f"not a {_called(kind)}" if kind else "no tokenizer or prior"
        raise ArtifactError(f"{place.origin}: {what}: it has no {CONFIG}{hint}")
    try:
        config = read_json(folder / CONFIG, ArtifactError, MAX_CONFIG_BYTES)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read it: {error.strerror}") from None
    fields = {"format_version", "imagetok_version", "kind", "architecture", "fingerprint"}
    if not isinstance(config, dict) or config.keys() - {"plugins"} != fields:
        raise ArtifactError(f"{path}: expected exactly the keys {sorted(fields)}")
    if config["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format {config['format_version']!r}, made by imagetok "
            f"{config['imagetok_version']}; this imagetok reads format {FORMAT_VERSION}"
        )
    if config["kind"] not in accepted:
        expected = f"a {_called(kind)}"
        raise ArtifactError(
            f"{place.origin}: expected {expected}, found "
            + (_NO_CODES if config["kind"] == "autoencoder" else f"a {config['kind']}")
        )
    if not isinstance(config["architecture"], dict):
        raise ArtifactError(f"{path}: architecture must be a mapping")
    return config


def _check_inside(place: ArtifactLocation, name: str) -> None:
    """ArtifactError for a link out of the folder: what it leads to would be copied and pushed.

    The Hub's cache keeps the files beside the folders of commits, whose files are links to them.
    """
    try:
        folder, path = place.folder.resolve(), (place.folder / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise ArtifactError(f"{place.origin}/{name}: is a link that leads nowhere") from None
    cache = next((p.parent for p in folder.parents if p.name == "snapshots"), None)
    if path.is_relative_to(folder) or (cache and path.is_relative_to(cache / "blobs")):
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{place.origin}/{name}: expected a regular file, found another")
        return
    raise ArtifactError(
        f"{place.origin}/{name}: is a link out of the folder, and only files that lie in it are "
        "read; put the file itself there"
    )


def kind_in(config: Path) -> Kind | None:
    """The kind that a config names; None where it names none of ours."""
    try:
        kind = read_json(config, max_bytes=MAX_CONFIG_BYTES)["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((known for known in FILES if known == kind), None)


def check_manifest(artifact: Artifact, advice: str = "fetch or export it again") -> None:
    """ArtifactError where config or weights differ from the manifest, if there is one.

    Not the card: that may have been edited, on the Hub's pages or by hand.
    """
    if (artifact.folder / MANIFEST).is_file():
        faults = verify_folder(artifact.folder, [n for n in FILES[artifact.kind] if is_needed(n)])
        if faults:
            raise ArtifactError(
                f"{artifact.origin}: changed or damaged: {'; '.join(faults)}; {advice}"
            )


def load_weights(artifact: Artifact, kind: str, expected: nn.Module) -> dict[str, Tensor]:
    """The artifact's tensors, after checking their names, shapes, dtypes and the fingerprint.

    expected: the same architecture on the meta device; nothing is allocated before it agrees.
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
        raise ArtifactError(f"{path}: cannot read it: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{path}: damaged or cut off ({error}); fetch it again") from None
    if (misfit := _misfit_of_dtypes(tensors, wanted)) is not None:
        raise ArtifactError(f"{path}: {misfit}")
    found = fingerprint_of(kind, artifact.architecture, tensors)
    if found != artifact.fingerprint:
        raise ArtifactError(
            f"{artifact.origin}: the weights or the config were changed or damaged: fingerprint "
            f"expected {artifact.fingerprint[:16]}, found {found[:16]}; fetch or export it again"
        )
    return tensors


def check_fits(model: nn.Module, expected: nn.Module, folder: Path) -> None:
    """Refuse to save a model that could not be loaded again: ArtifactError.

    expected: what the model's config builds, on the meta device. folder: for the message.
    """
    found, wanted = model.state_dict(), expected.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    misfit = _misfit_of_shapes(shapes, wanted) or _misfit_of_dtypes(found, wanted)
    if misfit is not None:
        raise ArtifactError(
            f"{folder}: not saved, since it could not be loaded again: the model is not what its "
            f"config describes: {misfit}. Save a model that was built from its config, without "
            "modules or parameters that were exchanged since, and in the precision it was built "
            "in, as .float() restores it"
        )


def _misfit_of_shapes(
    shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]
) -> str | None:
    """How the names or shapes of tensors differ from those that are wanted; None if not at all."""
    if shapes.keys() != wanted.keys():
        missing = sorted(wanted.keys() - shapes.keys())[:3]
        extra = sorted(shapes.keys() - wanted.keys())[:3]
        return f"does not fit its {CONFIG}: missing {missing}, extra {extra}"
    return next(
        (
            f"{name} has shape {shapes[name]}, expected {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if shapes[name] != tuple(tensor.shape)
        ),
        None,
    )


def _misfit_of_dtypes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The same of dtypes, of tensors with the names that are wanted."""
    return next(
        (
            f"{name} is {found[name].dtype}, expected {tensor.dtype}"
            for name, tensor in wanted.items()
            if found[name].dtype != tensor.dtype
        ),
        None,
    )


def copy_artifact(artifact: Artifact, folder: Path) -> None:
    """Put an artifact's own files into a new folder, sealed."""
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
    """Share a saved folder on the Hub, in one commit; see `hub.push`.

    Only an artifact's own files are uploaded. In the card, the folder becomes the repository.
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
    """Write the model card: Hub front matter, then paragraphs that hold measured numbers only.

    task: the Hub's name of what the model does (`pipeline_tag`), where it has one.
    """
    task_line = [f"pipeline_tag: {task}"] if task else []
    tag_lines = [f"- {tag}" for tag in tags]
    front = ["---", "library_name: imagetok", *task_line, "tags:", *tag_lines, "---"]
    write_bytes(folder / CARD, "\n".join([*front, f"# {title}", "", *body, ""]).encode())


def metrics_table(metrics: Mapping[str, float | int]) -> str:
    """A Markdown table of measured values, by name: a resumed run has them in another order."""
    rows = [f"| {plain(name)} | {value:.6g} |" for name, value in sorted(metrics.items())]
    return "\n".join(["| measure | value |", "|---|---|", *rows])
