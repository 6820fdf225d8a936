"""What is measured of a figure's tokenizers after training: distances, priors, manipulations."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagetok.codes.decode import picture_file
from imagetok.comparison.follow_up import FollowUp, FollowUpStep, run_follow_up
from imagetok.comparison.plan import Trial
from imagetok.comparison.subprocesses import Failure, imagetok_command
from imagetok.comparison.trial_distances import (
    FeatureWork,
    SampleReference,
    feature_follow_up,
    folder_of,
    short_hash,
    tokenizer_fingerprint,
    tokenizer_words,
)
from imagetok.data import describe, open_images
from imagetok.errors import InputError
from imagetok.evaluation.protocols import sample_count
from imagetok.io.json_files import read_json
from imagetok.signals import StopRequest
from imagetok.tokenizers import Autoencoder, Tokenizer
from prior.papers.trials import FigurePlan
from prior.sample_folder import RECORD
from prior.trial_priors import PriorWork, artifact_of, check_samples, samples_folder

PICTURES = 32
"""Samples of each prior in a figure of samples."""
_PAPER_NAMES = {"frechet": "fid", "precision": "precision", "recall": "recall"}
_EXPLORED = TypeAdapter(tuple[str, dict[str, dict[str, float]]])
_OTHER_NETWORK = re.compile(r"(r?)(frechet|precision|recall)_(.+?)(_neighbour-\d+|_interpolation)?")


def follow_up_of(plan: FigurePlan, data: str, device: str) -> tuple[FollowUp, FollowUp]:
    """Return what is measured of tokenizers on a data set, and of models without codes."""
    features, config, image = plan.features, plan.images[data].data, plan.images[data].image
    images = feature_follow_up(config, features, device) or FollowUp([], _nothing, _nothing)
    steps, measures, identity = images
    if plan.priors:
        only_pictures = plan.figure.sheet.kind == "samples"
        count = len(open_images(config, "train", image))
        drawn = plan.num_samples or (PICTURES if only_pictures else sample_count(count))
        work = PriorWork(
            config=str(plan.prior_file(data)),
            run=plan.priors[data],
            num_samples=drawn,
            data=config,
            device=device,
            distances=FeatureWork(features, config, device, SampleReference(drawn)),
        )
        steps, measures, identity = work.steps(), work.measures, work.identity
        if only_pictures:
            steps = [*steps, _sampling(drawn, device)]
    neighbours = plan.figure.sheet.neighbours
    if neighbours:
        described = describe(config, "test")
        step = _exploration(described, neighbours, features, device)
        with_codes = FollowUp(
            [*steps, step],
            lambda trial: measures(trial) | _manipulations(_explored(trial, neighbours, features)),
            identity,
        )
        return with_codes, images
    return FollowUp(steps, measures, identity), images


def measure(
    plan: FigurePlan,
    models: Mapping[Trial, Autoencoder],
    slots: Sequence[Mapping[str, str]],
    device: str,
    stop: StopRequest,
) -> tuple[dict[Trial, dict[str, float | int]], dict[Trial, Failure], dict[str, Any]]:
    """Measure every trial; return measures and failures by trial, and identities by data set."""
    found: dict[Trial, dict[str, float | int]] = {}
    failures: dict[Trial, Failure] = {}
    identities: dict[str, Any] = {}
    for data in plan.images:
        trials = [t for planned in plan.runs_on(data) for t in planned.trials if t in models]
        if plan.figure.sheet.kind == "samples":
            trials = [trial for trial in trials if trial.seed == plan.seeds[0]]
        for follow_up, of_codes in zip(
            follow_up_of(plan, data, device), (True, False), strict=True
        ):
            chosen = [
                trial
                for trial in dict.fromkeys(trials)
                if isinstance(models[trial], Tokenizer) is of_codes
            ]
            failures |= run_follow_up(follow_up, chosen, slots, stop)
            done = [trial for trial in chosen if trial not in failures]
            found |= {t: _named_as_in_papers(follow_up.measures(t)) for t in done}
            if done and (identity := follow_up.identity(done[0])):
                identities.setdefault(data, identity)
    return found, failures, identities


def _named_as_in_papers(measures: Mapping[str, float | int]) -> dict[str, float | int]:
    """Also give distances in other networks the names of those in the papers' networks.

    These only stand where the paper's networks were not used, which the record says.
    """
    renamed = {
        f"{found[1]}{_PAPER_NAMES[found[2]]}{found[4] or ''}": value
        for name, value in measures.items()
        if (found := _OTHER_NETWORK.fullmatch(name))
    }
    return renamed | dict(measures)


def _nothing(trial: Trial) -> dict[str, Any]:
    del trial
    return {}


def _sampling(count: int, device: str) -> FollowUpStep:
    def command(trial: Trial) -> list[str]:
        words = ["--prior", str(artifact_of(trial))]
        words += ["--out", str(samples_folder(trial)), "-n", str(count)]
        return imagetok_command("sample", *words, "--device", device)

    return FollowUpStep("sampling", command, lambda trial: _is_sampled(trial, count))


def _is_sampled(trial: Trial, count: int) -> bool:
    """Return whether the first `count` samples of the trial's prior are there."""
    check_samples(trial)
    folder = samples_folder(trial)
    return (folder / RECORD).is_file() and all(
        picture_file(folder, j).is_file() for j in range(count)
    )


def _exploration(
    data: str, neighbours: Sequence[int], features: Sequence[str], device: str
) -> FollowUpStep:
    def command(trial: Trial) -> list[str]:
        words = [
            *tokenizer_words(trial),
            "--data",
            data,
            "--out",
            str(_explored(trial, neighbours, features)),
        ]
        words += [word for spec in features for word in ("--features", spec)]
        words += ["--neighbours", ",".join(map(str, neighbours)), "--device", device]
        return imagetok_command("explore", *words)

    def is_done(trial: Trial) -> bool:
        path = _explored(trial, neighbours, features) / "explore.json"
        return path.is_file() and _explore_record(path)[0] == tokenizer_fingerprint(trial)

    return FollowUpStep("changing codes", command, is_done)


def _explored(trial: Trial, neighbours: Sequence[int], features: Sequence[str]) -> Path:
    """Return the folder of a trial's changed codes, measured in these networks."""
    return folder_of(trial) / f"explored-{short_hash([list(neighbours), list(features)])}"


def _manipulations(folder: Path) -> dict[str, float | int]:
    """Read the distances of images with changed codes, by names such as `fid_neighbour-3`."""
    return {
        f"{measure}_{change}": value
        for change, row in _explore_record(folder / "explore.json")[1].items()
        for measure, value in row.items()
        if change != "reconstruction"
    }


def _explore_record(path: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """Return the tokenizer's fingerprint and the distances in an explore.json."""
    found = read_json(path)
    try:
        return _EXPLORED.validate_python((found["tokenizer"], found["distances"]))
    except (KeyError, TypeError, ValidationError):
        raise InputError(
            f"{path}: damaged: expected `tokenizer` and `distances` of numbers; delete it to "
            "measure again"
        ) from None
