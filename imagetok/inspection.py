"""Describing artifacts, runs, comparisons and code datasets, and the result of a push."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from imagetok import artifacts, hub
from imagetok.codes.index import is_index, open_datasets, read_index
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import PLAN
from imagetok.codes.statistics import code_statistics, save_contact_sheet
from imagetok.comparison.folder import describe_comparison, is_comparison
from imagetok.errors import ArtifactError, ConfigError, InputError
from imagetok.evaluation.earlier_measures import renamed
from imagetok.io.url_secrets import public_url
from imagetok.results import Result
from imagetok.tokenizers import Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from imagetok.training import checkpoint
from imagetok.training.metrics_log import read_thinned, test_record
from imagetok.training.run_folder import CHECKPOINTS, METRICS, exported_step
from imagetok.training.run_folder import CONFIG as RUN_CONFIG

Kind = artifacts.Kind | Literal["codes", "code index", "run", "comparison"]


@dataclass(frozen=True, repr=False)
class Description(Result):
    """Description of a folder, or of an artifact on the Hub."""

    source: str
    """The folder or Hub id."""
    kind: Kind
    content: Mapping[str, Any]
    """Plain data, as `imagetok inspect --json` prints it; its first key is `kind`."""
    contact_sheet: Path | None = None
    """Picture of decoded images that was written for a code dataset."""
    num_decoded: int = 0
    """Number of images in that picture."""

    def title(self) -> str:
        return f"{self.source}: {self.kind}"

    def rows(self) -> dict[str, object]:
        """Return every value of `content` by its dotted name."""
        return _flat({k: v for k, v in self.content.items() if k != "kind"})

    def pictures(self) -> dict[str, np.ndarray]:
        """Return the contact sheet, if one was written."""
        if self.contact_sheet is None:
            return {}
        return {"contact sheet": np.array(Image.open(self.contact_sheet).convert("RGB"))}


@dataclass(frozen=True, repr=False)
class PushResult(Result):
    """The commit on the Hub of a push."""

    kind: Kind
    repo: str
    """Name of the repository, `user/name`."""
    commit: str
    """Hash of the commit, 40 hexadecimal digits."""
    url: str
    """URL of the commit's page."""

    @property
    def origin(self) -> str:
        """Hub id of the commit, `user/name@commit`, from which it can be loaded."""
        return hub.Pushed(self.repo, self.commit, self.url).origin

    def title(self) -> str:
        return f"{self.kind} pushed to {self.url}"

    def rows(self) -> dict[str, object]:
        """Return the commit, and the Hub id that loads it."""
        return {"commit": self.commit, "load it as": self.origin}


def kind_of(path: Path) -> Kind:
    """Return the kind of a folder; raises InputError if imagetok did not write it."""
    if is_comparison(path):
        return "comparison"
    if (path / PLAN).is_file():
        return "codes"
    if is_index(path):
        return "code index"
    if (path / RUN_CONFIG).is_file():
        return "run"
    if (path / artifacts.CONFIG).is_file():
        kind = artifacts.kind_in(path / artifacts.CONFIG)
        if kind is None:
            raise ArtifactError(
                f"{path / artifacts.CONFIG}: expected the config of a tokenizer or prior, found "
                "another file, or it is damaged"
            )
        return kind
    raise InputError(
        f"{path}: expected a tokenizer, prior, run, comparison or code dataset, which is a folder "
        f"with {artifacts.CONFIG}, {RUN_CONFIG} or {PLAN}, found none of them"
    )


def inspect(
    source: Path | str,
    *,
    tokenizer: Tokenizer | Path | str | None = None,
    contact_sheet: Path | str | None = None,
    device: torch.device | str | None = None,
) -> Description:
    """Describe a tokenizer, prior, run, comparison or code dataset.

    source: a folder, or the Hub id of an artifact.
    contact_sheet: PNG file for a picture of 64 decoded images, spread evenly over a code dataset.
    tokenizer: the tokenizer that made the codes, for the contact sheet.
    device: device of the tokenizer; None chooses one.
    Raises ShardError for a damaged code dataset, InputError for other damage, ConfigError for
    contact_sheet without tokenizer and vice versa.

    >>> imagetok.inspect("runs/digits-edvae/codes/train").content["images"]
    """
    if (contact_sheet is None) != (tokenizer is None):
        missing = "tokenizer" if tokenizer is None else "contact_sheet"
        raise ConfigError(f"contact_sheet, tokenizer: expected both or neither, found no {missing}")
    sheet, count = None, 0
    if contact_sheet is not None and tokenizer is not None:  # done first, because it may raise
        sheet = Path(contact_sheet)
        count = save_contact_sheet(open_codes(source), open_tokenizer(tokenizer, device), sheet)
    content = describe(source)
    return Description(str(source), content["kind"], content, sheet, count)


def describe(source: Path | str) -> dict[str, Any]:
    """Describe a folder, or an artifact on the Hub, as plain data; see `inspect`."""
    place = artifacts.locate(source)
    path = place.folder
    match kind_of(path):
        case "codes":
            return {"kind": "codes", **_describe_codes(path)}
        case "code index":
            return {"kind": "code index", **_describe_index(path)}
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
                **_ancestry(config),
                "architecture": config.architecture,
            }


def _ancestry(artifact: artifacts.Artifact) -> dict[str, str]:
    """Return whose codes a tokenizer has, in words as well, if its decoder alone was trained."""
    ancestry = artifact.ancestry
    if ancestry is None:
        return {}
    return {**ancestry._asdict(), "codes": artifacts.ancestry_in_words(ancestry)}


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints of a run, sorted by step; ResourceError if they cannot be listed."""
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
        **({"images": dataset.num_images, "samples": len(dataset)} if dataset.views > 1 else {}),
        "levels": [level._asdict() for level in found.levels],
        "bits_per_image": found.bits_per_image._asdict(),
    }


def _describe_index(path: Path) -> dict[str, Any]:
    index = read_index(path)
    plan = index.plan.model_dump(mode="json")
    return {
        "plan": plan | {"source": public_url(plan["source"])},
        "inputs": index.inputs,
        "written": index.written,
        "skipped": index.inputs - index.written,
        "datasets": {
            entry.folder: {"grids": entry.grids, "images": entry.written}
            for entry, _ in open_datasets(path)
        },
    }


def _describe_run(path: Path) -> dict[str, Any]:
    exported = exported_step(path)
    measured = read_thinned(path / METRICS, exported) if (path / METRICS).exists() else []
    return {
        "checkpoints": [c.name for c in checkpoints_of(path)],
        "last_logged_step": measured[-1]["step"] if measured else 0,
        "exported_step": exported,
        "test": renamed(test_record(measured, exported)) or None,
        "finished": [n for n in ("tokenizer", "prior") if (path / n).is_dir()],
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return values by dotted names; lists of mappings are flattened by index, others are kept."""
    rows: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): inner for i, inner in enumerate(value)}
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = value
    return rows
