"""What `imagetok compare` does after training: other commands, cell by cell."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagetok.comparison import Cell, Plan
from imagetok.comparison.later import Later, Step
from imagetok.config import load_config
from imagetok.data import DataConfig, describe, open_images
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError
from imagetok.evaluation.records import Record, read_record
from imagetok.training.metrics import read_json_lines
from prior.config import PriorRun

_PLAIN = {
    *("fid", "kid", "precision", "recall", "inception_score"),
    *("rfid", "rkid", "rprecision", "rrecall"),
}
"""Measures that are named without their network, because it is that of their papers."""


def make_later(
    plan: Plan, features: Sequence[str], prior: Path | None, num_samples: int | None, device: str
) -> Later | None:
    """The steps of every cell, each a command of imagetok; None where nothing is asked.

    features: networks to measure distances in. prior: config of what is trained on the codes.
    num_samples: images drawn from it for the distances; None is as many as there are test images.
    Raises ConfigError for a config that is not of a prior, and for samples that nothing needs.
    """
    if num_samples is not None and not (prior and features):
        raise ConfigError("--samples: needs --prior, to draw them, and --features, to compare them")
    if prior is None and not features:
        return None
    config = next(iter(plan.methods.values()))
    count = num_samples or len(open_images(config.data, "test", config.tokenizer.image))
    run = None if prior is None else load_config(prior, PriorRun)
    asked = _Asked(tuple(features), prior, run, count, config.data, device)
    return Later(asked.steps(), asked.measures, asked.identity)


@dataclass(frozen=True)
class _Asked:
    """What to do with each cell."""

    features: tuple[str, ...]
    path: Path | None
    """Of the prior's config."""
    run: PriorRun | None
    num_samples: int
    data: DataConfig
    device: str

    def steps(self) -> list[Step]:
        """In order; those that leave a last file behind are not done again."""
        steps = []
        if self.features:
            steps.append(self._evaluation("reconstructions"))
        if self.path is not None:
            steps += [self._encoding("train"), self._encoding("test")]
            steps.append(Step("training priors", self._train, lambda cell: False))
        if self.path is not None and self.features:
            steps.append(Step("sampling", self._sample, lambda cell: False))
            steps.append(self._evaluation("samples"))
        return steps

    def measures(self, cell: Cell) -> dict[str, float | int]:
        """Distances as `imagetok evaluate` names them, and `prior_bits_per_code`."""
        found: dict[str, float | int] = {}
        if self.run is not None:
            records = read_json_lines(_folder(cell) / "prior" / "metrics.jsonl")
            bits = [r["bits_per_code"] for r in records if r["split"] == "test"]
            found["prior_bits_per_code"] = min(bits) if self.run.export == "best" else bits[-1]
        for record in self._records(cell):
            found |= _in_features(record)
        return found

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Names of the distances, networks, counts, and the prior's config without places."""
        told: dict[str, Any] = {"measures": [], "networks": {}, "num_samples": 0, "prior": None}
        for record in self._records(cell):
            told["measures"] += _in_features(record)
            told["networks"] = record["identity"]["networks"]
            told["num_samples"] = record["measures"].get("num_samples", 0)
        if self.run is not None:
            places = {"data", "tokenizer", "seed"}
            told["prior"] = self.run.model_dump(mode="json", exclude=places)
        return told

    def _records(self, cell: Cell) -> list[Record]:
        """What `imagetok evaluate` wrote: of reconstructions, then of samples."""
        paths = [self._record(cell, what) for what in ("reconstructions", "samples")]
        if not self.features:
            return []
        return [read_record(path) for path in (paths if self.run is not None else paths[:1])]

    def _record(self, cell: Cell, what: str) -> Path:
        """Named by what it depends on, so that other networks or counts are measured anew."""
        asked = canonical_json([*self.features, self.num_samples])
        return _folder(cell) / f"{what}-{hashlib.sha256(asked).hexdigest()[:8]}.json"

    def _evaluation(self, what: str) -> Step:
        def command(cell: Cell) -> list[str]:
            words = ["evaluate", *_tokenizer(cell), "--data", describe(self.data, "test")]
            words += [word for spec in self.features for word in ("--features", spec)]
            if what == "samples":
                words += ["--samples", str(_folder(cell) / "samples")]
            return self._process(*words, "--out", str(self._record(cell, what)))

        return Step(f"measuring {what}", command, lambda cell: self._record(cell, what).is_file())

    def _encoding(self, split: str) -> Step:
        def command(cell: Cell) -> list[str]:
            words = ["--data", describe(self.data, split), "--shards", str(_codes(cell, split))]
            return self._process("encode", *_tokenizer(cell), *words)

        return Step(
            f"encoding {split}",
            command,
            lambda cell: (_codes(cell, split) / "manifest.json").is_file(),
        )

    def _train(self, cell: Cell) -> list[str]:
        settings = {
            "seed": cell.seed,
            "tokenizer": cell.folder / "tokenizer",
            "data.source": _codes(cell, "train"),
            "data.test": _codes(cell, "test"),
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        out = ["--out", str(_folder(cell) / "prior"), "--resume"]
        return self._process("train", str(self.path), *words, *out)

    def _sample(self, cell: Cell) -> list[str]:
        folder = _folder(cell)
        words = ["--prior", str(folder / "prior" / "prior"), "--out", str(folder / "samples")]
        return self._process("sample", *words, "-n", str(self.num_samples))

    def _process(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "cli.cell", *words, "--device", self.device]


def _folder(cell: Cell) -> Path:
    """What is made of a cell after training, beside its run."""
    return cell.folder.with_name(f"{cell.folder.name}-later")


def _codes(cell: Cell, split: str) -> Path:
    return _folder(cell) / "codes" / split


def _tokenizer(cell: Cell) -> list[str]:
    return ["--tokenizer", str(cell.folder / "tokenizer")]


def _in_features(record: Record) -> dict[str, float | int]:
    """The measures that need a network; the accuracy of a class is another one of samples."""
    endings = tuple(f"_{network}" for network in record["identity"]["networks"])
    return {
        name: value
        for name, value in record["measures"].items()
        if (name in _PLAIN or name.endswith(endings)) and not name.startswith("class_accuracy")
    }
