"""What kind of folder a path is, its description and its faults."""

import json
from pathlib import Path
from typing import Any, Literal

from imagetok import artifacts
from imagetok.codes.contents import contents_of
from imagetok.codes.plan import PLAN
from imagetok.codes.reader import open_codes
from imagetok.codes.verify import verify_codes
from imagetok.config import read_yaml
from imagetok.durable import MANIFEST, verify_folder
from imagetok.errors import ArtifactError, ConfigError, InputError
from imagetok.hub import Pushed
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.metrics import read_json_lines
from imagetok.training.run import CONFIG as RUN_CONFIG
from imagetok.training.run import exported_step, test_record

Kind = artifacts.Kind | Literal["codes", "run"]


def kind_of(path: Path) -> Kind:
    """What a folder holds; InputError when it is none of ours."""
    if (path / PLAN).is_file():
        return "codes"
    if (path / RUN_CONFIG).is_file():
        return "run"
    if (path / artifacts.CONFIG).is_file():
        try:
            kind = json.loads((path / artifacts.CONFIG).read_bytes())["kind"]
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(f"{path / artifacts.CONFIG}: damaged, it names no kind") from None
        if kind in artifacts.FILES:
            return kind
    raise InputError(
        f"{path}: no tokenizer, prior, run or code dataset; expected a folder with "
        f"{artifacts.CONFIG}, {RUN_CONFIG} or {PLAN}"
    )


def verify_path(source: Path | str) -> list[str]:
    """Faults of a folder of ours, or of an artifact on the Hub, one line each."""
    place = artifacts.locate(source)
    path = place.folder
    match kind_of(path):
        case "codes":
            return verify_codes(path)
        case "run":
            faults = [f for c in _checkpoints(path) for f in verify_folder(c)]
            faults += _log_faults(path)
            artifact_folders = [path / name for name in ("tokenizer", "prior")]
            return faults + [f for a in artifact_folders if a.is_dir() for f in verify_path(a)]
        case kind:
            # The cache may hold more of a repository than is ours.
            names = artifacts.FILES[kind] if place.is_fetched else None
            faults = verify_folder(path, names) if (path / MANIFEST).is_file() else []
            return faults or _load_faults(path, kind)


def describe_path(source: Path | str) -> dict[str, Any]:
    """A folder of ours, or an artifact on the Hub, in plain data.

    Raises ShardError for a damaged code dataset, InputError for other damage.
    """
    place = artifacts.locate(source)
    path = place.folder
    match kind_of(path):
        case "codes":
            dataset = open_codes(path)
            found = contents_of(dataset)
            return {
                "kind": "codes",
                "plan": dataset.plan.model_dump(mode="json"),
                "root": dataset.manifest.root,
                "inputs": dataset.manifest.inputs,
                **found._asdict(),
                "levels": [level._asdict() for level in found.levels],
                "bits_per_image": found.bits_per_image._asdict(),
            }
        case "run":
            try:
                measured = read_json_lines(path / "metrics.jsonl")
            except (OSError, ValueError) as error:
                raise InputError(f"{path / 'metrics.jsonl'}: damaged ({error})") from None
            exported = exported_step(path)
            return {
                "kind": "run",
                "checkpoints": [c.name for c in _checkpoints(path)],
                "last_logged_step": measured[-1]["step"] if measured else 0,
                "exported_step": exported,
                "test": test_record(measured, exported) or None,
                "finished": [n for n in ("tokenizer", "prior") if (path / n).is_dir()],
            }
        case kind:
            config = artifacts.read_artifact(path, kind)
            return {
                "kind": kind,
                "origin": place.origin,
                "fingerprint": config.fingerprint,
                "architecture": config.architecture,
            }


def push_folder(
    folder: Path, repo: str, *, private: bool, revision: str | None, message: str | None
) -> tuple[Kind, Pushed]:
    """Share a tokenizer's or prior's folder on the Hub, after checking it; see `push_artifact`.

    Raises InputError for a folder of another kind and ArtifactError for a damaged one.
    """
    kind = kind_of(folder)
    if kind == "run":
        made = [str(folder / n) for n in ("tokenizer", "prior") if (folder / n).is_dir()]
        hint = " or ".join(f"`imagetok push {m} {repo}`" for m in made) or "it made nothing yet"
        raise InputError(f"{folder}: is a run, and what it made is shared: {hint}")
    if kind == "codes":
        raise InputError(f"{folder}: is a code dataset; push shares tokenizers and priors")
    artifacts.check_manifest(artifacts.read_artifact(folder))
    faults = _load_faults(folder, kind)
    if faults:
        raise ArtifactError("; ".join(faults))
    pushed = artifacts.push_artifact(
        folder, repo, private=private, revision=revision, message=message
    )
    return kind, pushed


def _checkpoints(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdigit())


def _log_faults(run: Path) -> list[str]:
    """Files of a run that carry no hash, and cannot be read."""
    faults = []
    try:
        read_yaml(run / RUN_CONFIG)
    except ConfigError as error:
        faults.append(str(error))
    for name in ("metrics.jsonl", "timing.jsonl"):
        try:
            read_json_lines(run / name)
        except (OSError, ValueError) as error:
            faults.append(f"{run / name}: {error}")
    return faults


def _load_faults(path: Path, kind: str) -> list[str]:
    """What stops a tokenizer or prior from loading."""
    try:
        if kind != "prior":
            Autoencoder.from_pretrained(path)
        else:
            from prior import Prior

            embedded = Tokenizer.from_pretrained(path / "tokenizer")
            prior = Prior.from_pretrained(path)
            prior.check_tokenizer(embedded.fingerprint, f"{path / 'tokenizer'}")
    except InputError as error:
        return [str(error)]
    return []
