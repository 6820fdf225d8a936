"""`prior.compare`: comparison of tokenizers, with a prior trained on the codes of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from imagetok.comparison.follow_up import FollowUp, FollowUpStep
from imagetok.comparison.from_configs import (
    CompareResult,
    device_for_runs,
    num_images_of,
    published,
    request_of,
    run_request,
)
from imagetok.comparison.from_configs import compare as compare_tokenizers
from imagetok.comparison.plan import SEEDS, ComparisonPlan, Trial
from imagetok.comparison.subprocesses import imagetok_command
from imagetok.comparison.trial_distances import (
    FeatureWork,
    SampleReference,
    folder_of,
    identity_of,
    measures_in,
    tokenizer_words,
)
from imagetok.config import Overrides, validate
from imagetok.data import DataConfig, describe
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.protocols import sample_count
from imagetok.evaluation.records import MeasureRecord, read_record
from imagetok.named_configs import find_config
from imagetok.progress import progress_shown
from imagetok.training.metrics_log import records_of
from prior.config import PriorRun


def compare(
    configs: Sequence[Path | str],
    out: Path | str,
    *,
    prior: Path | str | None = None,
    num_samples: int | None = None,
    reference: Literal["train", "test"] | None = None,
    reference_count: int | None = None,
    seeds: Sequence[int] = SEEDS,
    set: Overrides = (),
    sweep: Overrides = (),
    allow_different: Sequence[str] = (),
    features: Sequence[str] = (),
    jobs: int | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> CompareResult:
    """Compare tokenizers as `imagetok.compare` does, and train a prior on the codes of each.

    prior: config of the prior; its data, tokenizer and seed are set for each trial. num_samples:
    samples drawn from each prior for the distances in `features`; None is 50,000, or the number of
    reference images if that is smaller. reference: the split of the images that samples are
    compared with; None is `train`, as in the papers. reference_count: the number of these images,
    a subset drawn with a fixed seed; None is the whole split. Reconstructions are always those of
    the test images, compared with the test images. The other arguments are those of
    `imagetok.compare`.

    Raises ConfigError as `imagetok.compare` does, for a config that is not of a prior, for
    num_samples, reference and reference_count without both prior and features, and for a
    reference_count above the number of images.

    >>> result = prior.compare(["a.yaml", "b.yaml"], "runs/comparison", prior="gpt.yaml")
    """
    drawn = {"samples": num_samples, "reference": reference, "reference-count": reference_count}
    given = {name: value for name, value in drawn.items() if value is not None}
    if given and not (prior and features):
        raise ConfigError(
            f"--{next(iter(given))}: needs --prior, to draw samples, and --features, to measure "
            "them"
        )
    if prior is None:
        return compare_tokenizers(
            configs, out, seeds=seeds, set=set, sweep=sweep, allow_different=allow_different,
            features=features, jobs=jobs, device=device, progress=progress,
        )  # fmt: skip
    request, chosen = (
        request_of(configs, seeds, set, sweep, allow_different, features),
        device_for_runs(device),
    )
    found = find_config(prior)
    words = ["--prior", published(prior)]
    words += [word for name, value in given.items() for word in (f"--{name}", str(value))]

    def follow_up(plan: ComparisonPlan) -> FollowUp:
        run = validate(found.tree, PriorRun, found.where)
        images = _sample_reference(plan, num_samples, reference or "train", reference_count)
        measured = FeatureWork(request.features, plan.data, chosen.type, images)
        work = PriorWork(found.where, run, images.num_samples, plan.data, chosen.type, measured)
        return FollowUp(work.steps(), work.measures, work.identity)

    with progress_shown(progress):
        return run_request(
            request, Path(out), follow_up, jobs=jobs, device=chosen, more_words=words
        )


def _sample_reference(
    plan: ComparisonPlan, num_samples: int | None, split: str, count: int | None
) -> SampleReference:
    """Return the counts of samples and reference images; ConfigError for too high a count."""
    available = num_images_of(plan, split)
    if count is not None and not 1 <= count <= available:
        raise ConfigError(
            f"--reference-count: expected 1 to {available:,}, the images of "
            f"{describe(plan.data, split)}, found {count:,}; lower it, or choose another "
            "--reference"
        )
    return SampleReference(num_samples or sample_count(count or available), split, count)


@dataclass(frozen=True)
class PriorWork:
    """The follow-up steps of each trial: encode, train a prior, sample, measure."""

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
        if measured:
            steps.append(FollowUpStep("sampling", self._sample, lambda trial: False))
            steps.append(self.distances.step("samples"))
        return steps

    def measures(self, trial: Trial) -> dict[str, float | int]:
        """Return `prior_bits_per_code`, and distances with the names of `imagetok evaluate`."""
        log = folder_of(trial) / "prior" / "metrics.jsonl"
        tests = [r for r in records_of(log) if r.get("split") == "test"]
        bits = [r["bits_per_code"] for r in tests if r.get("bits_per_code") is not None]
        if not bits:
            raise InputError(f"{log}: expected held-out bits_per_code, found none; damaged")
        found = min(bits) if self.run.export == "best" else bits[-1]
        return {"prior_bits_per_code": found, **measures_in(self._records(trial))}

    def identity(self, trial: Trial) -> dict[str, Any]:
        """Return the identity of the distances, and the prior's config without paths."""
        config = self.run.model_dump(mode="json", exclude={"data", "tokenizer", "seed"})
        return {**identity_of(self._records(trial)), "prior": config}

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
            return self._process("encode", *tokenizer_words(trial), *words)

        return FollowUpStep(
            f"encoding {split}",
            command,
            lambda trial: (_codes(trial, split) / "manifest.json").is_file(),
        )

    def _train(self, trial: Trial) -> list[str]:
        settings = {
            "seed": trial.seed,
            "tokenizer": trial.folder / "tokenizer",
            "data.source": _codes(trial, "train"),
            "data.test": _codes(trial, "test"),
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        out = ["--out", str(folder_of(trial) / "prior"), "--resume"]
        return self._process("train", self.config, *words, *out)

    def _sample(self, trial: Trial) -> list[str]:
        folder = folder_of(trial)
        words = ["--prior", str(folder / "prior" / "prior"), "--out", str(folder / "samples")]
        return self._process("sample", *words, "-n", str(self.num_samples))

    def _process(self, *words: str) -> list[str]:
        return imagetok_command(*words, "--device", self.device)


def _codes(trial: Trial, split: str) -> Path:
    return folder_of(trial) / "codes" / split
