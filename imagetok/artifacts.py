"""Artifact folders: `config.json`, `model.safetensors`, `README.md`, and their fingerprint.

No pickle is ever read or written. A folder is checked against its architecture and its
fingerprint before a model is built from it.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imagetok.durable import canonical_json, write_bytes, write_json
from imagetok.errors import ArtifactError, ResourceError

FORMAT_VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


class Artifact(NamedTuple):
    """A folder's content after the checks that need no model."""

    folder: Path
    architecture: dict[str, Any]
    fingerprint: str


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


def write_artifact(folder: Path, kind: str, architecture: dict[str, Any], model: nn.Module) -> str:
    """Put config and weights into an existing (staged) folder; returns the fingerprint."""
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
            "imagetok_version": version("imagetok"),
            "kind": kind,
            "architecture": architecture,
            "fingerprint": fingerprint,
        },
    )
    return fingerprint


def read_artifact(folder: Path | str, kind: str) -> Artifact:
    """Check a folder's form and config; ArtifactError says what is wrong and where."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: no such folder; expected a {kind} as `imagetok train` leaves it in "
            f"RUN/{kind}, with {CONFIG} and {WEIGHTS}"
        )
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError:
        inner = folder / kind
        hint = f"; did you mean {inner}?" if (inner / CONFIG).is_file() else ""
        raise ArtifactError(f"{folder}: not a {kind}: it has no {CONFIG}{hint}") from None
    except OSError as error:
        raise ArtifactError(f"{folder / CONFIG}: cannot read it: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ArtifactError(f"{folder / CONFIG}: damaged, it is not JSON") from None
    fields = {"format_version", "imagetok_version", "kind", "architecture", "fingerprint"}
    if not isinstance(config, dict) or config.keys() != fields:
        raise ArtifactError(f"{folder / CONFIG}: expected exactly the keys {sorted(fields)}")
    if config["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder / CONFIG}: format {config['format_version']!r}, made by imagetok "
            f"{config['imagetok_version']}; this imagetok reads format {FORMAT_VERSION}"
        )
    if config["kind"] != kind:
        raise ArtifactError(f"{folder}: expected a {kind}, found a {config['kind']}")
    if not isinstance(config["architecture"], dict):
        raise ArtifactError(f"{folder / CONFIG}: architecture must be a mapping")
    return Artifact(folder, config["architecture"], str(config["fingerprint"]))


def load_weights(artifact: Artifact, kind: str, expected: nn.Module) -> dict[str, Tensor]:
    """The artifact's tensors, after checking their names, shapes, dtypes and the fingerprint.

    expected: the same architecture on the meta device; nothing is allocated before it agrees.
    """
    path = artifact.folder / WEIGHTS
    wanted = {k: (tuple(v.shape), v.dtype) for k, v in expected.state_dict().items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != wanted.keys():
                missing, extra = sorted(wanted.keys() - names), sorted(names - wanted.keys())
                raise ArtifactError(
                    f"{path}: does not fit its {CONFIG}: missing {missing[:3]}, extra {extra[:3]}"
                )
            for name, (shape, _) in wanted.items():
                found = tuple(file.get_slice(name).get_shape())
                if found != shape:
                    raise ArtifactError(f"{path}: {name} has shape {found}, expected {shape}")
            tensors = {name: file.get_tensor(name) for name in sorted(names)}
    except FileNotFoundError:
        raise ArtifactError(f"{artifact.folder}: not a {kind}: it has no {WEIGHTS}") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: damaged or cut off ({error}); fetch it again") from None
    for name, (_, dtype) in wanted.items():
        if tensors[name].dtype != dtype:
            raise ArtifactError(f"{path}: {name} is {tensors[name].dtype}, expected {dtype}")
    found = fingerprint_of(kind, artifact.architecture, tensors)
    if found != artifact.fingerprint:
        raise ArtifactError(
            f"{artifact.folder}: the weights or the config were changed or damaged: fingerprint "
            f"expected {artifact.fingerprint[:16]}, found {found[:16]}; fetch or export it again"
        )
    return tensors


def write_card(folder: Path, title: str, tags: list[str], body: list[str]) -> None:
    """Write the model card: Hub front matter, then paragraphs that hold measured numbers only."""
    front = ["---", "library_name: imagetok", "tags:", *[f"- {tag}" for tag in tags], "---"]
    write_bytes(folder / CARD, "\n".join([*front, f"# {title}", "", *body, ""]).encode())


def metrics_table(metrics: dict[str, float | int]) -> str:
    """A Markdown table of measured values."""
    rows = [f"| {name} | {value:.6g} |" for name, value in metrics.items()]
    return "\n".join(["| measure | value |", "|---|---|", *rows])
