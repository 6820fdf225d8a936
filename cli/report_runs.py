"""What a report is made of: run folders, folders of samples, files of measures. No click here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from imagetok.artifacts import read_artifact
from imagetok.codes.plan import read_json
from imagetok.config import read_yaml, validate
from imagetok.data import ImageDataset, open_images
from imagetok.errors import ConfigError, ImagetokError, InputError, ShardError
from imagetok.evaluation.records import Record, read_record
from imagetok.images import ImageContract
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.metrics import read_json_lines
from imagetok.training.run import CONFIG, exported_step, test_record
from prior.config import PriorRun
from prior.generation import RECORD as SAMPLES
from prior.generation import Samples


@dataclass(frozen=True)
class RunFolder:
    """One run: its config, what it logged, and what it made if it is finished."""

    path: Path
    name: str
    """As it is called in the report."""
    config: TokenizerRun | PriorRun
    records: list[dict[str, Any]]
    """Of metrics.jsonl, in order."""
    timing: list[dict[str, Any]]
    device: torch.device
    exported: int | None
    """The step whose weights the artifact has; None while the run goes on."""

    @property
    def kind(self) -> str:
        """`tokenizer` or `prior`."""
        return self.config.kind

    @property
    def artifact(self) -> Path | None:
        """The finished tokenizer or prior; None while the run goes on."""
        folder = self.path / self.kind
        return folder if folder.is_dir() else None

    @property
    def test(self) -> dict[str, Any]:
        """Measures on the held-out split, with their step: the artifact's, or else the last."""
        return test_record(self.records, self.exported)

    @property
    def step(self) -> int:
        """The last logged one."""
        return int(self.records[-1]["step"]) if self.records else 0

    @cached_property
    def fingerprint(self) -> str | None:
        """Of what it made; None while the run goes on."""
        return read_artifact(self.artifact).fingerprint if self.artifact else None

    @cached_property
    def model(self) -> Autoencoder | None:
        """The finished tokenizer, or the VAE; None while the run goes on, and of a prior."""
        if self.kind != "tokenizer" or self.artifact is None:
            return None
        return Autoencoder.from_pretrained(self.artifact).to(self.device)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model, if it has codes."""
        return self.model if isinstance(self.model, Tokenizer) else None

    @cached_property
    def held_out(self) -> "HeldOut":
        """The images that a tokenizer run is measured on."""
        assert isinstance(self.config, TokenizerRun)
        contract = self.config.tokenizer.image
        source = f"{self.config.data.source}:test"
        try:
            return HeldOut(source, contract, open_images(self.config.data, "test", contract), "")
        except ImagetokError as error:
            return HeldOut(source, contract, None, str(error))


class HeldOut(NamedTuple):
    """Held-out images, or why they cannot be had; a run can move away from its data."""

    source: str
    contract: ImageContract
    dataset: ImageDataset | None
    reason: str


class SampleFolder(NamedTuple):
    """What `imagetok sample` wrote."""

    path: Path
    name: str
    record: Samples


class Sources(NamedTuple):
    """Everything that a report is to show, in the order given."""

    runs: list[RunFolder]
    samples: list[SampleFolder]
    measures: dict[str, Record]


def open_sources(paths: Sequence[Path], device: torch.device) -> Sources:
    """Read run folders, folders of samples and files of measures.

    Raises InputError for what is none of these, or damaged.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"expected different runs, found one twice: {', '.join(map(str, paths))}")
    sources = Sources([], [], {})
    for path, name in zip(paths, _names(paths), strict=True):
        if (path / CONFIG).is_file():
            sources.runs.append(_open_run(path, name, device))
        elif (path / SAMPLES).is_file():
            sources.samples.append(SampleFolder(path, name, _read_samples(path)))
        elif path.is_file():
            sources.measures[name] = read_record(path)
        else:
            raise InputError(
                f"{path}: {_found(path)}; expected a run folder (with {CONFIG}, as imagetok train "
                f"writes), a folder of samples (with {SAMPLES}), or the JSON file of "
                "imagetok evaluate --out"
            )
    return sources


def _open_run(path: Path, name: str, device: torch.device) -> RunFolder:
    tree = read_yaml(path / CONFIG)
    kind, where = tree.get("kind"), str(path / CONFIG)
    if kind not in ("tokenizer", "prior"):
        raise ConfigError(f"{where}: kind: expected 'tokenizer' or 'prior', found {kind!r}")
    section = TokenizerRun if kind == "tokenizer" else PriorRun
    records = _log(path / "metrics.jsonl")
    if not records:
        raise InputError(f"{path}: has logged nothing yet; train it for some steps first")
    config = validate(tree, section, where)
    timing = _log(path / "timing.jsonl")
    return RunFolder(path, name, config, records, timing, device, exported_step(path))


def _read_samples(path: Path) -> Samples:
    try:
        return read_json(path / SAMPLES, Samples)
    except ShardError as error:
        raise InputError(
            f"{error}; leave {path} out of the report, or draw it again with `imagetok sample`"
        ) from None


def _log(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return read_json_lines(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error})") from None


def _names(paths: Sequence[Path]) -> list[str]:
    """Their last parts; where two are alike, as they were given."""
    short = [path.resolve().name for path in paths]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]


def _found(path: Path) -> str:
    if not path.exists():
        return "there is nothing there"
    config = path / "config.json"
    try:
        kind = json.loads(config.read_bytes())["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return "no run"
    return f"is a {kind}, not a run; its run folder may be {path.resolve().parent}"
