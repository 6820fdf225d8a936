"""What a folder of ours holds, its description, and sharing it on the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from imagetok import artifacts, hub
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import PLAN
from imagetok.codes.statistics import code_statistics, save_contact_sheet
from imagetok.comparison.folder import describe_comparison, is_comparison
from imagetok.errors import ArtifactError, ConfigError, InputError
from imagetok.io.urls import public_url
from imagetok.results import Result
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from imagetok.training import checkpoint
from imagetok.training.metrics_log import read_thinned, test_record
from imagetok.training.run_folder import CHECKPOINTS, METRICS, exported_step
from imagetok.training.run_folder import CONFIG as RUN_CONFIG

Kind = artifacts.Kind | Literal["codes", "run", "comparison"]


@dataclass(frozen=True, repr=False)
class Description(Result):
    """What a folder, or an artifact on the Hub, holds."""

    source: str
    kind: Kind
    content: Mapping[str, Any]
    """Plain data, as `imagetok inspect --json` prints it; its first key is `kind`."""
    contact_sheet: Path | None = None
    """The picture that was written, of a code dataset."""
    num_decoded: int = 0
    """Images in that picture."""

    def title(self) -> str:
        return f"{self.source}: {self.kind}"

    def rows(self) -> dict[str, object]:
        """Every value by its dotted name; lists are counted."""
        return _flat({k: v for k, v in self.content.items() if k != "kind"})

    def pictures(self) -> dict[str, np.ndarray]:
        """The contact sheet."""
        if self.contact_sheet is None:
            return {}
        return {"contact sheet": np.array(Image.open(self.contact_sheet).convert("RGB"))}


@dataclass(frozen=True, repr=False)
class PushResult(Result):
    """A commit on the Hub that holds what was pushed."""

    kind: Kind
    repo: str
    commit: str
    url: str
    """Of the commit's page."""

    @property
    def origin(self) -> str:
        """`user/name@commit`, which can be loaded."""
        return hub.Pushed(self.repo, self.commit, self.url).origin

    def title(self) -> str:
        return f"{self.kind} pushed to {self.url}"

    def rows(self) -> dict[str, object]:
        """The commit, and what loads it."""
        return {"commit": self.commit, "load it as": self.origin}


def kind_of(path: Path) -> Kind:
    """What a folder holds; InputError when it is none of ours."""
    if is_comparison(path):
        return "comparison"
    if (path / PLAN).is_file():
        return "codes"
    if (path / RUN_CONFIG).is_file():
        return "run"
    if (path / artifacts.CONFIG).is_file():
        kind = artifacts.kind_in(path / artifacts.CONFIG)
        if kind is None:
            raise ArtifactError(f"{path / artifacts.CONFIG}: damaged, it names no kind of ours")
        return kind
    raise InputError(
        f"{path}: no tokenizer, prior, run, comparison or code dataset; expected a folder with "
        f"{artifacts.CONFIG}, {RUN_CONFIG} or {PLAN}"
    )


def inspect(
    source: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    contact_sheet: Path | str | None = None,
    device: torch.device | str | None = None,
) -> Description:
    """Describe a tokenizer, prior, run, comparison or code dataset.

    source: a folder, or the Hub id of an artifact. contact_sheet, tokenizer: decode 64 images of a
    code dataset, spread evenly, into this PNG file, with the tokenizer that made the codes. Raises
    ShardError for a damaged code dataset, InputError for other damage, ConfigError for one of the
    two without the other.

    >>> imagetok.inspect("runs/digits-edvae/codes/train").content["images"]
    """
    if (contact_sheet is None) != (tokenizer is None):
        raise ConfigError("contact_sheet and tokenizer are given together")
    sheet, count = None, 0
    if contact_sheet is not None and tokenizer is not None:  # first: it may refuse
        sheet = Path(contact_sheet)
        count = save_contact_sheet(open_codes(source), open_tokenizer(tokenizer, device), sheet)
    content = describe(source)
    return Description(str(source), content["kind"], content, sheet, count)


def describe(source: Path | str) -> dict[str, Any]:
    """A folder of ours, or an artifact on the Hub, in plain data; see `inspect`."""
    place = artifacts.locate(source)
    path = place.folder
    match kind_of(path):
        case "codes":
            return {"kind": "codes", **_describe_codes(path)}
        case "run":
            return {"kind": "run", **_describe_run(path)}
        case "comparison":
            return {"kind": "comparison", **describe_comparison(path)}
        case kind:
            config = artifacts.read_artifact(path, kind)
            return {
                "kind": kind,
                "origin": place.origin,
                "fingerprint": config.fingerprint,
                "architecture": config.architecture,
            }


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, in order; ResourceError where they cannot be listed."""
    return checkpoint.names(run / CHECKPOINTS)


def _describe_codes(path: Path) -> dict[str, Any]:
    dataset = open_codes(path)
    found = code_statistics(dataset)
    plan = dataset.plan.model_dump(mode="json")
    return {
        "plan": plan | {"source": public_url(plan["source"])},
        "root": dataset.manifest.root,
        "inputs": dataset.manifest.inputs,
        **found._asdict(),
        "levels": [level._asdict() for level in found.levels],
        "bits_per_image": found.bits_per_image._asdict(),
    }


def _describe_run(path: Path) -> dict[str, Any]:
    exported = exported_step(path)
    measured = read_thinned(path / METRICS, exported) if (path / METRICS).exists() else []
    return {
        "checkpoints": [c.name for c in checkpoints_of(path)],
        "last_logged_step": measured[-1]["step"] if measured else 0,
        "exported_step": exported,
        "test": test_record(measured, exported) or None,
        "finished": [n for n in ("tokenizer", "prior") if (path / n).is_dir()],
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Values by dotted names; a list of plain values as text, one of sections by place."""
    rows: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): inner for i, inner in enumerate(value)}
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = value
    return rows
