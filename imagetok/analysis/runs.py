"""What a report is made of: run folders, and files of measures."""

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
from imagetok.errors import ConfigError, ImagetokError, InputError
from imagetok.evaluation.records import MeasureRecord, read_record
from imagetok.images import ImageContract
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.config import TokenizerRun, TrainConfig
from imagetok.training.metrics_log import read_thinned, test_record
from imagetok.training.run_folder import CONFIG, exported_step


@runtime_checkable
class RunConfig(Protocol):
    """What the config of every run has."""

    @property
    def seed(self) -> int: ...
    @property
    def train(self) -> TrainConfig: ...


@dataclass(frozen=True)
class RunFolder(ABC):
    """One run: its config, what it logged, and what it made if it is finished.

    A leaf knows one kind of config, and what a report says of its runs.
    """

    path: Path
    name: str
    """As it is called in the report."""
    config: RunConfig
    records: list[dict[str, Any]]
    """Of metrics.jsonl, in order; of a very long one not all, see `read_thinned`."""
    timing: list[dict[str, Any]]
    device: torch.device
    exported: int | None
    """The step whose weights the artifact has; None while the run goes on."""

    kind: ClassVar[str]
    """The `kind` of its config, and the name of the folder of what it made."""
    section: ClassVar[type[Section]]
    """The type of its config."""
    headlines: ClassVar[Mapping[str, tuple[str, str]]]
    """Held-out measures to show first: name -> (label, explanation)."""
    curves: ClassVar[Sequence[Curve]]
    """What to draw of its log."""

    @property
    @abstractmethod
    def method(self) -> str:
        """What is trained, in a few words."""

    @property
    @abstractmethod
    def loss_terms(self) -> Sequence[str]:
        """Names of the weighted terms of its loss, as metrics.jsonl has them."""

    @abstractmethod
    def described(self) -> dict[str, str | None]:
        """What the run is, by name, for a table."""

    @abstractmethod
    def measured_on(self) -> dict[str, object]:
        """What its held-out measures depend on: the data, and the form of what is read."""

    @property
    def artifact(self) -> Path | None:
        """The folder of what it made; None while the run goes on."""
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


@dataclass(frozen=True)
class TokenizerRunFolder(RunFolder):
    """A run that trains a tokenizer or a VAE."""

    config: TokenizerRun

    kind: ClassVar[str] = "tokenizer"
    section: ClassVar[type[Section]] = TokenizerRun
    headlines: ClassVar[Mapping[str, tuple[str, str]]] = {
        "psnr_db": ("reconstruction, PSNR in dB", "mean over the held-out images"),
        "pixel_accuracy": ("pixel accuracy", "held out"),
        "perplexity": ("perplexity", "held out; K if all codes are used alike"),
        "codes_used": ("codes used", "that occur on the held-out images"),
    }
    curves: ClassVar[Sequence[Curve]] = TOKENIZER_CURVES

    @property
    def method(self) -> str:
        """The quantizers and the data."""
        return f"{', '.join(self.config.tokenizer.method)} on {self.config.data.source}"

    @property
    def loss_terms(self) -> Sequence[str]:
        """Of the objective."""
        return tuple(self.config.objective.weights)

    def described(self) -> dict[str, str | None]:
        """Method, network, data, images and codes."""
        image = self.config.tokenizer.image
        rows: dict[str, str | None] = {
            "method": ", ".join(self.config.tokenizer.method),
            "network": self.config.tokenizer.network.kind,
            "data": self.config.data.source,
            "images": f"{image.mode}, {image.height} x {image.width}",
        }
        if self.tokenizer is not None:
            rows["codes"] = ", ".join(f"{h} x {w}" for h, w in self.tokenizer.grids)
            rows["codebook, K"] = ", ".join(map(str, self.tokenizer.num_codes))
        return rows

    def measured_on(self) -> dict[str, object]:
        """The held-out images and their form."""
        data = self.held_out.dataset
        return {
            "data": self.held_out.source,
            "data_identity": None if data is None else data.identity(),
            "image": self.held_out.contract.model_dump(mode="json"),
        }

    @cached_property
    def model(self) -> Autoencoder | None:
        """The finished tokenizer, or the VAE; None while the run goes on."""
        if self.artifact is None:
            return None
        return Autoencoder.from_pretrained(self.artifact).to(self.device)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model, if it has codes."""
        return self.model if isinstance(self.model, Tokenizer) else None

    @cached_property
    def held_out(self) -> "HeldOut":
        """The images that it is measured on."""
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


class Sources(NamedTuple):
    """Everything that a report is to show, each in the order given."""

    runs: list[RunFolder]
    measures: dict[str, MeasureRecord]
    """Records of files, by name."""


def open_sources(
    paths: Mapping[str, Path],
    device: torch.device,
    kinds: Sequence[type[RunFolder]] = (TokenizerRunFolder,),
    others: str = "",
) -> Sources:
    """Read run folders and files of measures.

    paths: by the names that the report gives them, as from `names_of`. kinds: of the runs that
    can be read. others: for messages, what else the caller reads. Raises InputError for what is
    none of these, or damaged, ConfigError for a run of another kind.
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
    """Paths by their last parts; where two are alike, as they were given.

    Raises ConfigError for a path given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"expected different runs, found one twice: {', '.join(map(str, paths))}")
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
        raise ConfigError(f"{where}: kind: expected {expected}, found {tree.get('kind')!r}")
    exported = exported_step(path)
    records = _log(path / "metrics.jsonl", exported)
    if not records:
        raise InputError(f"{path}: has logged nothing yet; train it for some steps first")
    config: Any = validate(tree, leaf.section, where)
    timing = _log(path / "timing.jsonl")
    return leaf(path, name, config, records, timing, device, exported)


def _log(path: Path, kept: int | None = None) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return read_thinned(path, kept)


def _found(path: Path) -> str:
    if not path.exists():
        return "there is nothing there"
    config = path / "config.json"
    kind = kind_in(config)
    if kind is None:
        return "no run"
    return f"is a {kind}, not a run; its run folder may be {path.resolve().parent}"
