"""Distances in feature networks: what `imagetok evaluate` measures of each finished cell."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagetok.comparison.follow_up import FollowUp, FollowUpStep
from imagetok.comparison.plan import ComparisonPlan, Trial
from imagetok.comparison.subprocesses import imagetok_command
from imagetok.data import DataConfig, describe
from imagetok.durable import canonical_json
from imagetok.evaluation.records import MeasureRecord, read_record

_PLAIN = {
    *("fid", "kid", "precision", "recall", "inception_score"),
    *("rfid", "rkid", "rprecision", "rrecall"),
}
"""Measures that are named without their network, because it is that of their papers."""


def feature_follow_up(
    plan: ComparisonPlan, features: tuple[str, ...], num_test_images: int, device: str
) -> FollowUp | None:
    """The distances of each cell's reconstructions; None where no network is asked for."""
    if not features:
        return None
    work = FeatureWork(features, num_test_images, plan.data, device)

    def records(trial: Trial) -> list[MeasureRecord]:
        return [read_record(work.path(trial, "reconstructions"))]

    return FollowUp(
        [work.step("reconstructions")],
        lambda trial: measures_in(records(trial)),
        lambda trial: identity_of(records(trial)),
    )


@dataclass(frozen=True)
class FeatureWork:
    """How reconstructions, and images drawn from a prior, are measured."""

    features: tuple[str, ...]
    """Networks, as `imagetok evaluate --features` takes them."""
    num_samples: int
    data: DataConfig
    device: str

    def path(self, trial: Trial, what: str) -> Path:
        """File of the measures, named by what they depend on, so that other networks or counts are
        measured anew. what: `reconstructions` or `samples`.
        """
        asked = canonical_json([*self.features, self.num_samples])
        return folder_of(trial) / f"{what}-{hashlib.sha256(asked).hexdigest()[:8]}.json"

    def step(self, what: str) -> FollowUpStep:
        """Measure `reconstructions`, or the folder of `samples` beside them."""

        def command(trial: Trial) -> list[str]:
            words = ["evaluate", *tokenizer_words(trial), "--data", describe(self.data, "test")]
            words += [word for spec in self.features for word in ("--features", spec)]
            if what == "samples":
                words += ["--samples", str(folder_of(trial) / "samples")]
            words += ["--out", str(self.path(trial, what)), "--device", self.device]
            return imagetok_command(*words)

        return FollowUpStep(
            f"measuring {what}", command, lambda trial: self.path(trial, what).is_file()
        )


def folder_of(trial: Trial) -> Path:
    """What is made of a cell after training, beside its run."""
    return trial.folder.with_name(f"{trial.folder.name}-later")


def tokenizer_words(trial: Trial) -> list[str]:
    """The option that names the cell's finished tokenizer."""
    return ["--tokenizer", str(trial.folder / "tokenizer")]


def measures_in(records: list[MeasureRecord]) -> dict[str, float | int]:
    """The distances of some records, named as `imagetok evaluate` names them."""
    return {name: value for record in records for name, value in _distances(record).items()}


def identity_of(records: list[MeasureRecord]) -> dict[str, Any]:
    """Names of the distances, networks and counts; what a comparison stores as `later`."""
    identity: dict[str, Any] = {"measures": [], "networks": {}, "num_samples": 0, "prior": None}
    for record in records:
        identity["measures"] += _distances(record)
        identity["networks"] = record["identity"]["networks"]
        identity["num_samples"] = record["measures"].get("num_samples", 0)
    return identity


def _distances(record: MeasureRecord) -> dict[str, float | int]:
    """The measures that need a network; the accuracy of a class is another one of samples."""
    endings = tuple(f"_{network}" for network in record["identity"]["networks"])
    return {
        name: value
        for name, value in record["measures"].items()
        if (name in _PLAIN or name.endswith(endings)) and not name.startswith("class_accuracy")
    }
