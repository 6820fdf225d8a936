"""Feature distances (such as rFID) of every finished trial, measured by `imagetok evaluate`."""

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
"""Measures whose names do not include the network, because it is that of their papers."""


def feature_follow_up(
    plan: ComparisonPlan, features: tuple[str, ...], num_test_images: int, device: str
) -> FollowUp | None:
    """Return the follow-up that measures reconstructions of each trial; None without features."""
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
    """Settings for measuring reconstructions and samples of a prior."""

    features: tuple[str, ...]
    """Networks, as accepted by `imagetok evaluate --features`."""
    num_samples: int
    data: DataConfig
    device: str

    def path(self, trial: Trial, what: str) -> Path:
        """Return the file of the measures.

        Its name contains a hash of the networks and counts, so that a change of these is measured
        again. what: `reconstructions` or `samples`.
        """
        settings = canonical_json([*self.features, self.num_samples])
        return folder_of(trial) / f"{what}-{hashlib.sha256(settings).hexdigest()[:8]}.json"

    def step(self, what: str) -> FollowUpStep:
        """Return the step that measures `reconstructions` or `samples`."""

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
    """Return the folder of a trial's follow-up results, next to its run folder."""
    return trial.folder.with_name(f"{trial.folder.name}-later")


def tokenizer_words(trial: Trial) -> list[str]:
    """Return the command-line option that names the trial's tokenizer."""
    return ["--tokenizer", str(trial.folder / "tokenizer")]


def measures_in(records: list[MeasureRecord]) -> dict[str, float | int]:
    """Return the distances in some records, with the names of `imagetok evaluate`."""
    return {name: value for record in records for name, value in _distances(record).items()}


def identity_of(records: list[MeasureRecord]) -> dict[str, Any]:
    """Return names of distances, networks and counts; a comparison stores them as `later`."""
    identity: dict[str, Any] = {"measures": [], "networks": {}, "num_samples": 0, "prior": None}
    for record in records:
        identity["measures"] += _distances(record)
        identity["networks"] = record["identity"]["networks"]
        identity["num_samples"] = record["measures"].get("num_samples", 0)
    return identity


def _distances(record: MeasureRecord) -> dict[str, float | int]:
    """Return the measures that need a network, except class accuracies."""
    endings = tuple(f"_{network}" for network in record["identity"]["networks"])
    return {
        name: value
        for name, value in record["measures"].items()
        if (name in _PLAIN or name.endswith(endings)) and not name.startswith("class_accuracy")
    }
