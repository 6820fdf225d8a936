"""Run folders of priors and folders of samples, as sources of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch

from imagetok.analysis.curves import TEST, TRAIN, Curve
from imagetok.analysis.runs import (
    RunFolder,
    Sources,
    TokenizerRunFolder,
    names_of,
    open_sources,
)
from imagetok.artifacts import read_artifact
from imagetok.codes.schema import read_json
from imagetok.config import Section
from imagetok.errors import InputError, ShardError
from prior.config import PriorRun
from prior.sample_folder import RECORD as SAMPLES
from prior.sample_folder import SamplesRecord

BITS_CURVE = Curve(
    "bits per code",
    {
        ("train", "bits_per_code"): TRAIN,
        ("test", "bits_per_code"): TEST,
        ("test", "order0_bits_per_code"): "unigram baseline",
    },
    "Negative log-likelihood of the codes under the prior. A prior that is better than the unigram "
    "baseline has learned dependences between codes.",
)


@dataclass(frozen=True)
class PriorRunFolder(RunFolder):
    """A run that trains a prior."""

    config: PriorRun

    kind: ClassVar[str] = "prior"
    section: ClassVar[type[Section]] = PriorRun
    headlines: ClassVar[Mapping[str, tuple[str, str]]] = {
        "bits_per_code": ("bits per code", "of held-out codes, under the prior"),
    }
    curves: ClassVar[Sequence[Curve]] = (BITS_CURVE,)

    @property
    def method(self) -> str:
        """The kind of the prior's model."""
        return f"{self.config.model.kind} prior"

    @property
    def loss_terms(self) -> Sequence[str]:
        """Empty: the loss of a prior has a single term."""
        return ()

    def described(self) -> dict[str, str | None]:
        """Return model and data."""
        return {"method": self.config.model.kind, "data": self.config.data.source}

    def measured_on(self) -> dict[str, object]:
        """Return the held-out codes and, once training is finished, their tokenizer."""
        data = self.config.data
        identity: dict[str, object] = {"data": data.test or f"a part of {data.source}"}
        if self.artifact:
            # Bits per code of different tokenizers are not comparable.
            prior = read_artifact(self.artifact, "prior")
            identity["tokenizer"] = prior.architecture["tokenizer_fingerprint"]
        return identity


class SampleFolder(NamedTuple):
    """A folder of samples, as written by `imagetok sample`."""

    path: Path
    name: str
    record: SamplesRecord


class PriorSources(NamedTuple):
    """The sources of a report: runs, files of measures, and folders of samples."""

    sources: Sources
    samples: list[SampleFolder]


def open_all(paths: Sequence[Path], device: torch.device) -> PriorSources:
    """Read run folders, folders of samples and files of measures.

    Raises InputError for a path that is none of these or is damaged.
    """
    named = names_of(paths)
    samples = {name: path for name, path in named.items() if (path / SAMPLES).is_file()}
    others = {name: path for name, path in named.items() if name not in samples}
    kinds = (TokenizerRunFolder, PriorRunFolder)
    summary = f"a folder of samples (with {SAMPLES}), "
    folders = [SampleFolder(path, name, _read_samples(path)) for name, path in samples.items()]
    return PriorSources(open_sources(others, device, kinds, summary), folders)


def _read_samples(path: Path) -> SamplesRecord:
    try:
        record = read_json(path / SAMPLES, SamplesRecord)
        pictures = sum(file.suffix == ".png" for file in path.iterdir())
        if not 0 < record.num_images <= pictures:
            raise ShardError(
                f"{path / SAMPLES}: num_images: expected 1 to {pictures:,}, the number of PNG "
                f"files there, found {record.num_images:,}"
            )
        return record
    except ShardError as error:
        raise InputError(
            f"{error}; omit {path} from the report, or sample again with `imagetok sample`"
        ) from None
