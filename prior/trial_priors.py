"""A prior on the codes of every finished trial: trained, measured, and its samples measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagetok.artifacts import read_artifact
from imagetok.codes.reader import open_codes
from imagetok.comparison.follow_up import FollowUpStep
from imagetok.comparison.plan import WITHOUT_EFFECT, Trial
from imagetok.comparison.subprocesses import imagetok_command
from imagetok.comparison.trial_distances import (
    FeatureWork,
    folder_of,
    identity_of,
    measures_in,
    skip_words,
    tokenizer_words,
)
from imagetok.config import read_yaml, value_at
from imagetok.data import DataConfig, describe
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.records import MeasureRecord, read_record
from imagetok.io.json_files import read_section
from imagetok.training.metrics_log import records_of
from imagetok.training.run_folder import CONFIG
from prior.config import PriorRun
from prior.sample_folder import RECORD, SamplesRecord

_OWN_CODES = {"data": {"source", "test"}}
"""Keys that are set for each trial."""


@dataclass(frozen=True)
class PriorWork:
    """The follow-up steps of each trial: encode, train a prior, sample, measure.

    The prior sees codes of the training images only; those of the test images measure it once.
    """

    config: str
    """Path or name of the prior's config."""
    run: PriorRun
    num_samples: int
    data: DataConfig
    device: str
    distances: FeatureWork

    def steps(self) -> list[FollowUpStep]:
        """Return the steps in order; a step whose last file exists is not repeated."""
        measured = bool(self.distances.features)
        steps = [self.distances.step("reconstructions")] if measured else []
        steps += [self._encoding("train"), self._encoding("test")]
        steps.append(FollowUpStep("training priors", self._train, lambda trial: False))
        steps.append(FollowUpStep("measuring priors", self._measure, _is_measured))
        if measured:
            steps.append(FollowUpStep("sampling", self._sample, _is_sampled))
            steps.append(self.distances.step("samples"))
        return steps

    def measures(self, trial: Trial) -> dict[str, float | int]:
        """Return `prior_bits_per_code`, and distances with the names of `imagetok evaluate`."""
        found = read_record(_test_bits(trial))["measures"]
        if "bits_per_code" not in found:
            raise InputError(f"{_test_bits(trial)}: expected bits_per_code, found none; damaged")
        return {
            "prior_bits_per_code": found["bits_per_code"],
            **measures_in(self._records(trial)),
        }

    def identity(self, trial: Trial) -> dict[str, Any]:
        """Return the identity of the distances, and what the prior depends on, without paths.

        `selection` says which images the prior's weights were selected on, `prior_measured_on`
        which ones it was measured on.
        """
        config = self.run.model_dump(mode="json", exclude={"data", "tokenizer", "seed"})
        return {
            **identity_of(self._records(trial)),
            "prior": config,
            "selection": {
                "split": "train",
                "held_out": self.run.data.held_out,
                "seed": "that of the trial",
                "num_images": _num_held_out(trial),
            },
            "prior_measured_on": {
                "split": "test",
                "num_images": read_record(_test_bits(trial))["measures"]["num_images"],
            },
        }

    def _records(self, trial: Trial) -> list[MeasureRecord]:
        """Read the records written by `imagetok evaluate`; empty without features."""
        if not self.distances.features:
            return []
        return [
            read_record(self.distances.path(trial, what)) for what in ("reconstructions", "samples")
        ]

    def _encoding(self, split: str) -> FollowUpStep:
        def command(trial: Trial) -> list[str]:
            words = ["--data", describe(self.data, split), "--shards", str(_codes(trial, split))]
            words += skip_words(self.distances.max_skip)
            return self._process("encode", *tokenizer_words(trial), *words)

        return FollowUpStep(f"encoding {split}", command, lambda trial: _is_encoded(trial, split))

    def _train(self, trial: Trial) -> list[str]:
        settings = {
            "seed": trial.seed,
            "tokenizer": trial.folder / "tokenizer",
            "data.source": _codes(trial, "train"),
            "data.test": "null",  # the held-out codes are a part of the training codes
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        out = ["--out", str(prior_folder(trial)), "--resume"]
        return self._process("train", self.config, *words, *out)

    def _measure(self, trial: Trial) -> list[str]:
        words = ["--prior", str(artifact_of(trial)), "--shards", str(_codes(trial, "test"))]
        return self._process("evaluate", *words, "--out", str(_test_bits(trial)))

    def _sample(self, trial: Trial) -> list[str]:
        words = ["--prior", str(artifact_of(trial)), "--out", str(samples_folder(trial))]
        return self._process("sample", *words, "-n", str(self.num_samples))

    def _process(self, *words: str) -> list[str]:
        return imagetok_command(*words, "--device", self.device)


def _codes(trial: Trial, split: str) -> Path:
    return folder_of(trial) / "codes" / split


def prior_folder(trial: Trial) -> Path:
    """Return the run folder of a trial's prior."""
    return folder_of(trial) / "prior"


def prior_identity(run: PriorRun) -> dict[str, Any]:
    """Return a prior's config without seed, places, and keys that do not affect results."""
    tree = run.model_dump(mode="json", exclude={"seed": True, "tokenizer": True, **_OWN_CODES})
    return tree | {"train": {k: v for k, v in tree["train"].items() if k not in WITHOUT_EFFECT}}


def _is_encoded(trial: Trial, split: str) -> bool:
    """Return whether a trial's images are encoded.

    Raises ConfigError for codes of another tokenizer: the trial's was trained again after them.
    """
    folder = _codes(trial, split)
    if not (folder / "manifest.json").is_file():
        return False
    tokenizer = read_artifact(trial.folder / "tokenizer", "tokenizer")
    expected, found = tokenizer.codes_fingerprint, open_codes(folder).fingerprint
    if found != expected:
        raise ConfigError(
            f"{folder}: expected codes of {trial.folder / 'tokenizer'}, {expected[:16]}, found "
            f"those of another tokenizer, {found[:16]}: it was trained again after it was "
            f"measured; delete {folder_of(trial)} to measure it again"
        )
    return True


def artifact_of(trial: Trial) -> Path:
    """Return the folder of a trial's finished prior."""
    return prior_folder(trial) / "prior"


def prior_fingerprint(trial: Trial) -> str:
    """Return the fingerprint of a trial's finished prior."""
    return read_artifact(artifact_of(trial), "prior").fingerprint


def _test_bits(trial: Trial) -> Path:
    """Return the file of the measures of a trial's prior on the test codes."""
    return folder_of(trial) / "prior-test.json"


def _is_measured(trial: Trial) -> bool:
    """Return whether the measures on the test codes are those of the trial's finished prior."""
    if not _test_bits(trial).is_file():
        return False
    measured = read_record(_test_bits(trial))["subject"].get("prior")
    return measured == prior_fingerprint(trial)


def samples_folder(trial: Trial) -> Path:
    """Return the folder with the samples of a trial's prior."""
    return folder_of(trial) / "samples"


def _is_sampled(trial: Trial) -> bool:
    """Return False: `imagetok sample` itself finds out which samples are missing."""
    check_samples(trial)
    return False


def check_samples(trial: Trial) -> None:
    """Raise ConfigError for samples of another prior: the trial's was trained again after them."""
    folder = samples_folder(trial)
    record = folder / RECORD
    if record.is_file():
        expected, found = prior_fingerprint(trial), read_section(record, SamplesRecord).prior
        if found != expected:
            raise ConfigError(
                f"{folder}: expected samples of {artifact_of(trial)}, {expected[:16]}, found those "
                f"of another prior, {found[:16]}: it was trained again after it was measured; "
                f"delete {folder_of(trial)} to measure it again"
            )


def _num_held_out(trial: Trial) -> int:
    """Return the number of images on which the weights of a trial's prior were selected."""
    log = prior_folder(trial) / "metrics.jsonl"
    records = records_of(log) if log.is_file() else ()
    counts = [r.get("num_images") for r in records if r.get("split") == "test"]
    if not counts or type(counts[-1]) is not int:
        raise InputError(f"{log}: expected num_images of held-out codes, found none; damaged")
    return counts[-1]


def check_selection(trials: Sequence[Trial]) -> None:
    """Raise ConfigError for a prior with held-out codes of its own, those of the test images."""
    for trial in trials:
        config = prior_folder(trial) / CONFIG
        if config.is_file() and value_at(read_yaml(config), "data.test") is not None:
            raise ConfigError(
                f"{config.parent}: data.test: expected null, because weights are no longer "
                "selected on the test images, found a code dataset: an earlier version trained "
                f"this prior; delete the folders {config.parent.parent.parent.parent}/*/"
                "seed-*-later to train and measure priors again, or choose another --out"
            )
