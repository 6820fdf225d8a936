"""Feature distances (such as rFID) of every finished trial, measured by `imagetok evaluate`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from imagetok.artifacts import read_artifact
from imagetok.comparison.follow_up import FollowUp, FollowUpStep
from imagetok.comparison.plan import Trial
from imagetok.comparison.subprocesses import imagetok_command
from imagetok.data import DataConfig, describe
from imagetok.durable import canonical_json
from imagetok.evaluation.feature_networks import open_networks
from imagetok.evaluation.records import MeasureRecord, read_record
from imagetok.training.checkpoint_record import FINISHED
from imagetok.training.config import NO_SKIPS

_PLAIN = {
    *("fid", "kid", "precision", "recall", "inception_score"),
    *("rfid", "rkid", "rprecision", "rrecall"),
}
"""Measures whose names do not include the network, because it is that of their papers."""
_REFERENCE = ("data", "data_count", "data_drawn_from", "data_identity", "precision_recall_counts")
"""Keys of a record's identity that say which images were the reference."""


FEATURES = "features"
"""Folder of a comparison with the features of its reference images; it may be deleted."""


class SampleReference(NamedTuple):
    """Counts of samples and of the images that they are compared with."""

    num_samples: int
    """Number of samples of each prior."""
    split: str = "train"
    """Split of the images."""
    num_images: int | None = None
    """Number of images, a subset drawn with a fixed seed; None: the whole split."""


def feature_follow_up(
    data: DataConfig, features: tuple[str, ...], device: str, max_skip: str = NO_SKIPS
) -> FollowUp | None:
    """Return the follow-up that measures reconstructions of each trial; None without features."""
    if not features:
        return None
    work = FeatureWork(features, data, device, max_skip=max_skip)

    def records(trial: Trial) -> list[MeasureRecord]:
        return [read_record(work.path(trial, "reconstructions"))]

    return FollowUp(
        [work.step("reconstructions")],
        lambda trial: measures_in(records(trial)),
        lambda trial: identity_of(records(trial)),
    )


def check_networks(features: Sequence[str], trials: Sequence[Trial], device: torch.device) -> None:
    """Open the networks if a trial is still to be trained, so that missing weights end it first.

    Raises the errors of `open_features`.
    """
    if any(not (trial.folder / FINISHED).is_file() for trial in trials):
        open_networks(features, device)


@dataclass(frozen=True)
class FeatureWork:
    """Settings for measuring reconstructions and samples of a prior.

    Reconstructions of the test images are compared with the test images.
    """

    features: tuple[str, ...]
    """Networks, as accepted by `imagetok evaluate --features`."""
    data: DataConfig
    device: str
    reference: SampleReference | None = None
    """What samples are compared with; None without samples."""
    max_skip: str = NO_SKIPS
    """Unreadable images to leave out."""

    def path(self, trial: Trial, what: str) -> Path:
        """Return the file of the measures.

        Its name contains a hash of the networks, and for samples of their reference, so that a
        change of these is measured again. what: `reconstructions` or `samples`.
        """
        reference = self.reference if what == "samples" else None
        return folder_of(trial) / f"{what}-{short_hash([self.features, reference])}.json"

    def step(self, what: str) -> FollowUpStep:
        """Return the step that measures `reconstructions` or `samples`."""

        def command(trial: Trial) -> list[str]:
            words = ["evaluate", *tokenizer_words(trial)]
            words += [word for spec in self.features for word in ("--features", spec)]
            words += self._images(trial, what)
            words += ["--feature-cache", str(trial.config.parent / FEATURES)]
            words += ["--out", str(self.path(trial, what)), "--device", self.device]
            words += skip_words(self.max_skip)
            return imagetok_command(*words)

        def is_done(trial: Trial) -> bool:
            path = self.path(trial, what)
            return path.is_file() and (what == "samples" or _is_of_tokenizer(path, trial))

        return FollowUpStep(f"measuring {what}", command, is_done)

    def _images(self, trial: Trial, what: str) -> list[str]:
        """Return the command-line options that name what is measured, and against what."""
        reference = self.reference
        if what == "reconstructions" or reference is None:
            return ["--data", describe(self.data, "test")]
        words = ["--data", describe(self.data, reference.split)]
        words += ["--samples", str(folder_of(trial) / "samples")]
        if reference.num_images is not None:
            words += ["--reference-count", str(reference.num_images)]
        return words


def skip_words(max_skip: str) -> list[str]:
    """Return the command-line option of an allowance; none for 0."""
    return [] if max_skip == NO_SKIPS else ["--max-skip", max_skip]


def folder_of(trial: Trial) -> Path:
    """Return the folder of a trial's follow-up results, next to its run folder."""
    return trial.folder.with_name(f"{trial.folder.name}-later")


def short_hash(settings: Any) -> str:
    """Return a hash of settings, for the name of a file that depends on them."""
    return hashlib.sha256(canonical_json(settings)).hexdigest()[:8]


def tokenizer_fingerprint(trial: Trial) -> str:
    """Return the fingerprint of a finished trial's tokenizer, or model without codes."""
    return read_artifact(trial.folder / "tokenizer", "autoencoder").fingerprint


def _is_of_tokenizer(path: Path, trial: Trial) -> bool:
    """Return whether a record is of the trial's tokenizer, and not of one trained before it."""
    return read_record(path)["subject"].get("tokenizer") == tokenizer_fingerprint(trial)


def tokenizer_words(trial: Trial) -> list[str]:
    """Return the command-line option that names the trial's tokenizer."""
    return ["--tokenizer", str(trial.folder / "tokenizer")]


def measures_in(records: list[MeasureRecord]) -> dict[str, float | int]:
    """Return the distances in some records, with the names of `imagetok evaluate`."""
    return {name: value for record in records for name, value in _distances(record).items()}


def identity_of(records: list[MeasureRecord]) -> dict[str, Any]:
    """Return what distances depend on; a comparison stores it as `later`.

    These are the names of the measures, the networks, the number of samples, and the images that
    reconstructions (`reconstruction_reference`) and samples (`reference`) were compared with.
    """
    identity: dict[str, Any] = {"measures": [], "networks": {}, "num_samples": 0, "prior": None}
    for record in records:
        identity["measures"] += _distances(record)
        identity["networks"] = record["identity"]["networks"]
        identity["num_samples"] = record["measures"].get("num_samples", 0)
        of_samples = record["identity"]["what"] == "samples"
        identity["reference" if of_samples else "reconstruction_reference"] = {
            key: record["identity"][key] for key in _REFERENCE if key in record["identity"]
        }
    return identity


def _distances(record: MeasureRecord) -> dict[str, float | int]:
    """Return the measures that need a network, except class accuracies."""
    endings = tuple(f"_{network}" for network in record["identity"]["networks"])
    return {
        name: value
        for name, value in record["measures"].items()
        if (name in _PLAIN or name.endswith(endings)) and not name.startswith("class_accuracy")
    }
