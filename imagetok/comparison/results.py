"""Results of a comparison: the measures of every run, and mean and deviation over seeds."""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field

from imagetok.comparison.plan import Trial, method_identity
from imagetok.config import Section, differences, load_config
from imagetok.durable import canonical_json, verify_folder
from imagetok.errors import ArtifactError, InputError
from imagetok.evaluation.earlier_measures import renamed
from imagetok.evaluation.meanings import MEANINGS
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.checkpoint_record import read_finished
from imagetok.training.config import TokenizerRun
from imagetok.training.facts import count_parameters
from imagetok.training.metrics_log import records_of
from imagetok.training.run_folder import CONFIG

_SHARED = ("mse", "psnr_db", "ssim", "pixel_accuracy", "miou", "perplexity")
_SHARED += ("perplexity_batch128", "perplexity_batch128_all", "perplexity_batch32")
_SHARED += ("commitment", "commitment_norm", "codes_used", "dead_codes")
DEFINITIONS = {
    **{name: MEANINGS[name] for name in _SHARED},
    "bits_per_image": "log2 K for each code",
    "entropy_bits_per_image": "order-0 entropy of the split's codes, log2 of the perplexity a code",
    "prior_bits_per_code": "of the finished prior on the test split's codes, measured once, "
    "labels given; weights are selected on a part of the training codes",
    "train_images_per_second": "median of whole optimizer steps after training, without reading",
    "encode_images_per_second": "median of encoding batches of 64 after training",
}


class TrialResult(Section):
    """The result of one trial."""

    seed: int
    status: Literal["finished", "failed"]
    measures: dict[str, float | int]
    """Measures of the last evaluation on the whole test split."""
    curve: tuple[dict[str, float | int], ...]
    """Measures of every evaluation, with its `step`."""
    fingerprint: str = ""
    """Fingerprint of the finished tokenizer."""
    reason: str = ""
    """Reason of a failure."""


class MethodResult(Section):
    """The results of one method over all seeds; empty or None if no trial finished."""

    name: str
    trials: tuple[TrialResult, ...] = Field(
        validation_alias=AliasChoices("trials", "cells"), serialization_alias="cells"
    )
    """One result per seed; `cells` in comparison.json."""
    config: dict[str, Any]
    config_sha256: str
    different: dict[str, Any]
    """Settings in which the user allowed methods to differ."""
    mean: dict[str, float]
    std: dict[str, float]
    """Sample standard deviations; empty unless at least two seeds finished."""
    num_codes: tuple[int, ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    parameters: int | None = None
    """Number of values in the model, including codebooks and their statistics."""
    train_images_per_second: float | None = None
    encode_images_per_second: float | None = None


class Comparison(Section):
    """Content of comparison.json."""

    format_version: Literal[1] = 1
    command: str
    data: str
    """The measured split as a `--data` spec without paths."""
    num_images: int
    train_identity: str
    test_identity: str
    seeds: tuple[int, ...]
    machine: dict[str, str | int]
    versions: dict[str, str]
    definitions: dict[str, str] = DEFINITIONS
    follow_up: dict[str, Any] | None = Field(
        default=None,
        validation_alias=AliasChoices("follow_up", "later"),
        serialization_alias="later",
    )
    """What the measures of `--features` and `--prior` depend on besides the tokenizer.

    `later` in comparison.json.
    """
    methods: tuple[MethodResult, ...]


def is_finished(trial: Trial) -> bool:
    """Return whether a trial's run is finished, after checking the hashes of its artifact.

    Raises ArtifactError if the artifact is damaged, InputError if the run has another config.
    """
    try:
        done = read_finished(trial.folder)
    except InputError:
        return False
    if done is None or done.step != trial.steps:
        return False
    remedy = f"delete {trial.folder} and run the same command to train it again"
    faults = verify_folder(trial.folder / "tokenizer")
    if faults:
        raise ArtifactError(f"{'; '.join(faults)}; {remedy}")
    stored = load_config(trial.folder / CONFIG, TokenizerRun)
    asked = load_config(trial.config, TokenizerRun, [f"seed={trial.seed}"])
    if stored.seed != trial.seed or differences(method_identity(stored), method_identity(asked)):
        raise InputError(f"{trial.folder}: the run has another config; {remedy}")
    return True


def evaluations(run: Path, steps: int) -> list[dict[str, float | int]]:
    """Return the held-out measures of every evaluation of a finished run, with their steps.

    Raises InputError if there is no evaluation at the last step, `steps`.
    """
    log = run / "metrics.jsonl"
    stored = records_of(log) if log.is_file() else ()
    records = [renamed(r) for r in stored if r.pop("split", None) == "test"]
    if not records or records[-1]["step"] != steps:
        raise InputError(
            f"{log}: expected an evaluation at step {steps}, found none; restore it, or delete "
            f"{run} to train it again"
        )
    return records


def finished_trial(
    trial: Trial, tokenizer: Autoencoder, more: Mapping[str, float | int]
) -> TrialResult:
    """Return the result of a finished trial: stored measures, derived ones, and `more`."""
    curve = evaluations(trial.folder, trial.steps)
    measures = {name: value for name, value in curve[-1].items() if name != "step"}
    if isinstance(tokenizer, Tokenizer):
        measures |= _of_codes(measures, tokenizer)
    return TrialResult(
        seed=trial.seed,
        status="finished",
        fingerprint=tokenizer.fingerprint,
        measures={**more, **measures},
        curve=tuple(curve),
    )


def _of_codes(measures: Mapping[str, float | int], tokenizer: Tokenizer) -> dict[str, float | int]:
    """Compute dead codes per level and bits per image."""
    levels = [f"_level{i}" for i in range(len(tokenizer.grids))]
    dead: dict[str, float | int] = {}
    bits = {"bits_per_image": 0.0, "entropy_bits_per_image": 0.0}
    for suffix, (h, w) in zip(levels if len(levels) > 1 else [""], tokenizer.grids, strict=True):
        num_codes = measures[f"num_codes{suffix}"]
        dead[f"dead_codes{suffix}"] = num_codes - measures[f"codes_used{suffix}"]
        bits["bits_per_image"] += h * w * math.log2(num_codes)
        bits["entropy_bits_per_image"] += h * w * math.log2(measures[f"perplexity{suffix}"])
    return dead | bits


def method_result(
    name: str,
    config: TokenizerRun,
    trials: Sequence[TrialResult],
    tokenizer: Autoencoder | None,
    rates: Mapping[str, float],
    different: Mapping[str, Any],
) -> MethodResult:
    """Aggregate the finished trials of a method; tokenizer: one of them, None without any."""
    finished = [trial.measures for trial in trials if trial.status == "finished"]
    every = [k for k in (finished[0] if finished else {}) if all(k in m for m in finished)]
    values = {k: [m[k] for m in finished] for k in every}
    identity = method_identity(config)
    known: dict[str, Any] = dict(rates)
    if tokenizer is not None:
        known |= {
            "num_codes": tokenizer.num_codes,
            "grids": tokenizer.grids if isinstance(tokenizer, Tokenizer) else (),
            "parameters": count_parameters(tokenizer),
        }
    return MethodResult(
        name=name,
        config=identity,
        config_sha256=hashlib.sha256(canonical_json(identity)).hexdigest(),
        different=dict(different),
        mean={k: statistics.fmean(v) for k, v in values.items()},
        std={k: statistics.stdev(v) for k, v in values.items() if len(v) > 1},
        trials=tuple(trials),
        **known,
    )
