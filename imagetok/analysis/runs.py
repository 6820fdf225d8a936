"""Sources of a report: run folders, and files of measures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch

from imagetok.analysis.curves import TOKENIZER_CURVES, Curve
from imagetok.artifacts import kind_in, read_artifact
from imagetok.config import Section, read_yaml, validate
from imagetok.data import ImageDataset, open_images
from imagetok.data.readable import readable
from imagetok.errors import ConfigError, ImagetokError, InputError, MissingPluginError
from imagetok.evaluation.earlier_measures import renamed
from imagetok.evaluation.records import MeasureRecord, read_record
from imagetok.images import ImageContract
from imagetok.suggestions import shown
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.metrics_log import read_thinned, test_record
from imagetok.training.run_folder import CONFIG, check_plugins, exported_step


@runtime_checkable
class RunConfig(Protocol):
    """The fields that the config of every run has."""

    @property
    def seed(self) -> int: ...
    @property
    def train(self) -> TrainConfig: ...


@dataclass(frozen=True)
class RunFolder(ABC):
    """A run folder: config, logs, and the trained artifact if the run is finished.

    Each subclass handles one kind of config and describes its runs for a report.
    """

    path: Path
    name: str
    """Name of the run in the report."""
    config: RunConfig
    records: list[dict[str, Any]]
    """Records of metrics.jsonl, in order; a long log is thinned out, see `read_thinned`."""
    timing: list[dict[str, Any]]
    device: torch.device
    exported: int | None
    """Step whose weights the artifact holds; None while the run is not finished."""

    kind: ClassVar[str]
    """The `kind` of the config, which is also the name of the artifact's folder."""
    section: ClassVar[type[Section]]
    """Type of the config."""
    headlines: ClassVar[Mapping[str, tuple[str, str]]]
    """Held-out measures of the summary: name -> (label, explanation)."""
    curves: ClassVar[Sequence[Curve]]
    """Curves to draw from the log."""

    @property
    @abstractmethod
    def method(self) -> str:
        """Short description of what is trained."""

    @property
    @abstractmethod
    def loss_terms(self) -> Sequence[str]:
        """Names of the weighted loss terms, as in metrics.jsonl."""

    @abstractmethod
    def described(self) -> dict[str, str | None]:
        """Return the properties of the run for the table of configurations."""

    @abstractmethod
    def measured_on(self) -> dict[str, object]:
        """Return what the held-out measures depend on: data and preprocessing."""

    @property
    def artifact(self) -> Path | None:
        """Folder of the trained artifact; None while the run is not finished."""
        folder = self.path / self.kind
        return folder if folder.is_dir() else None

    @property
    def test(self) -> dict[str, Any]:
        """Held-out measures with their step: those of the artifact, or else the last ones."""
        return test_record(self.records, self.exported)

    @property
    def step(self) -> int:
        """The last logged step."""
        return int(self.records[-1]["step"]) if self.records else 0

    @cached_property
    def fingerprint(self) -> str | None:
        """Fingerprint of the artifact; None while the run is not finished."""
        return read_artifact(self.artifact).fingerprint if self.artifact else None


@dataclass(frozen=True)
class TokenizerRunFolder(RunFolder):
    """A run that trains a tokenizer or a VAE."""

    config: TokenizerRun

    kind: ClassVar[str] = "tokenizer"
    section: ClassVar[type[Section]] = TokenizerRun
    headlines: ClassVar[Mapping[str, tuple[str, str]]] = {
        "psnr_db": ("reconstruction PSNR, dB", "mean over the held-out images"),
        "pixel_accuracy": ("pixel accuracy", "on the held-out images"),
        "perplexity": (
            "perplexity",
            "on the held-out images; the codebook size if all codes are used equally",
        ),
        "codes_used": ("codes used", "codes that occur in the held-out images"),
    }
    curves: ClassVar[Sequence[Curve]] = TOKENIZER_CURVES

    @property
    def method(self) -> str:
        """The quantizers and the data source."""
        return f"{', '.join(self.config.tokenizer.method)} on {self.config.data.source}"

    @property
    def loss_terms(self) -> Sequence[str]:
        """Names of the weighted loss terms of the objective."""
        return () if self.config.trained == "decoder" else tuple(self.config.objective.weights)

    def described(self) -> dict[str, str | None]:
        """Return method, network, data, image size, and grid and size of the codebook."""
        image = self.config.tokenizer.image
        rows: dict[str, str | None] = {
            "method": ", ".join(self.config.tokenizer.method),
            "network": self.config.tokenizer.network.kind,
            "data": self.config.data.source,
            "images": f"{image.mode}, {image.height} x {image.width}",
        }
        if self.tokenizer is not None:
            rows["code grid"] = ", ".join(f"{h} x {w}" for h, w in self.tokenizer.grids)
            rows["codebook size K"] = ", ".join(map(str, self.tokenizer.num_codes))
        return rows

    def measured_on(self) -> dict[str, object]:
        """Return the held-out data and the image contract."""
        data = self.held_out.dataset
        return {
            "data": self.held_out.source,
            "data_identity": None if data is None else data.identity(),
            "image": self.held_out.contract.model_dump(mode="json"),
        }

    @cached_property
    def model(self) -> Autoencoder | None:
        """The trained tokenizer or VAE; None while the run is not finished."""
        if self.artifact is None:
            return None
        return Autoencoder.from_pretrained(self.artifact).to(self.device)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The trained model if it is a tokenizer, which a VAE is not; else None."""
        return self.model if isinstance(self.model, Tokenizer) else None

    @cached_property
    def held_out(self) -> "HeldOut":
        """The held-out images that the run is measured on."""
        contract = self.config.tokenizer.image
        source = f"{self.config.data.source}:test"
        try:
            dataset = open_images(self.config.data, "test", contract)
            return HeldOut(source, contract, readable(dataset, self.config.max_skip), "")
        except ImagetokError as error:
            return HeldOut(source, contract, None, str(error))


class HeldOut(NamedTuple):
    """Held-out images, or the reason why they cannot be opened, for example on another machine."""

    source: str
    contract: ImageContract
    dataset: ImageDataset | None
    reason: str


class Sources(NamedTuple):
    """The sources of a report, in the order of its arguments."""

    runs: list[RunFolder]
    measures: dict[str, MeasureRecord]
    """Name of a file of measures -> its record."""


def open_sources(
    paths: Mapping[str, Path],
    device: torch.device,
    kinds: Sequence[type[RunFolder]] = (TokenizerRunFolder,),
    others: str = "",
) -> Sources:
    """Read run folders and files of measures.

    paths: paths by their names in the report, as from `names_of`. kinds: the accepted kinds of
    runs. others: for messages, what else the caller accepts.

    Raises InputError for a path that is neither or is damaged, ConfigError for a run of another
    kind.
    """
    sources = Sources([], {})
    for name, path in paths.items():
        if (path / CONFIG).is_file():
            sources.runs.append(_open_run(path, name, device, kinds))
        elif path.is_file():
            sources.measures[name] = read_record(path)
        else:
            raise InputError(
                f"{path}: {_found(path)}; expected a run folder (with {CONFIG}, as imagetok train "
                f"writes), {others}or the JSON file of imagetok evaluate --out"
            )
    return sources


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Return paths by name: the last part of the path, or the whole path if names would collide.

    Raises ConfigError if a path occurs twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(
            f"expected different runs, found one of them twice: {', '.join(map(str, paths))}"
        )
    short = [path.resolve().name for path in paths]
    return {
        name if short.count(name) == 1 else str(path): path
        for name, path in zip(short, paths, strict=True)
    }


def _open_run(
    path: Path, name: str, device: torch.device, kinds: Sequence[type[RunFolder]]
) -> RunFolder:
    tree, where = read_yaml(path / CONFIG), str(path / CONFIG)
    leaf = next((kind for kind in kinds if kind.kind == tree.get("kind")), None)
    if leaf is None:
        expected = " or ".join(repr(kind.kind) for kind in kinds)
        raise ConfigError(f"{where}: kind: expected {expected}, found {shown(tree.get('kind'))}")
    exported = exported_step(path)
    records = _log(path / "metrics.jsonl", exported)
    if not records:
        raise InputError(f"{path}: the run has logged nothing yet; train it for some steps first")
    check_plugins(path, MissingPluginError)
    config: Any = validate(tree, leaf.section, where)
    timing = _log(path / "timing.jsonl")
    return leaf(path, name, config, records, timing, device, exported)


def _log(path: Path, kept: int | None = None) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [renamed(record) for record in read_thinned(path, kept)]


def _found(path: Path) -> str:
    if not path.exists():
        return "there is no such file or folder"
    config = path / "config.json"
    kind = kind_in(config)
    if kind is None:
        return "this is not a run folder"
    return f"this is a {kind}, not a run; its run folder may be {path.resolve().parent}"
