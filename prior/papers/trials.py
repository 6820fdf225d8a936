"""The trials of a paper's table or figure: each of its tokenizers with each seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from imagetok.comparison.plan import Trial, method_identity
from imagetok.comparison.trial_distances import folder_of
from imagetok.config import (
    Section,
    apply_overrides,
    differences,
    dump_yaml,
    load_config,
    validate,
)
from imagetok.data import DataConfig
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.named_configs import FigureRun, NamedFigure
from imagetok.training.config import TokenizerRun
from imagetok.training.run_folder import CONFIG
from prior.config import PriorRun
from prior.papers.request import FigureRequest
from prior.trial_priors import prior_folder, prior_identity

RUNS = "runs"
"""Folder of the trials, which the tables and figures of a paper share."""
R = TypeVar("R", TokenizerRun, PriorRun)


@dataclass(frozen=True)
class PlannedRun:
    """A tokenizer of a figure with its config and its trials."""

    run: FigureRun
    config: TokenizerRun
    trials: tuple[Trial, ...]
    """One per seed; equal for runs that are the same point of several sweeps."""


class FigureImages(Section):
    """The images of one data set, in the form that its tokenizers use."""

    data: DataConfig
    image: ImageContract


@dataclass(frozen=True)
class FigurePlan:
    """What a figure trains and measures."""

    figure: NamedFigure
    folder: Path
    """The folder of the paper, with the folder `runs` and one per table or figure."""
    seeds: tuple[int, ...]
    images: Mapping[str, FigureImages]
    """Images by the name of the data set, of which `only` may have chosen some."""
    runs: tuple[PlannedRun, ...]
    priors: Mapping[str, PriorRun]
    """Data set -> config of the prior; empty without a prior."""
    features: tuple[str, ...]
    """Networks for distances."""
    other_network: str
    """These networks as text where they are not the paper's; empty otherwise."""
    num_samples: int | None
    """Samples of each prior; None for as many as papers draw."""
    command: str
    """The command line, without paths of this machine."""
    deviations: tuple[str, ...]
    """Settings that are not those of the paper."""

    @property
    def out(self) -> Path:
        """The folder of this table or figure."""
        return self.folder / self.figure.name.rpartition("/")[2]

    def trials(self) -> list[Trial]:
        """Return every trial once."""
        return list(dict.fromkeys(trial for planned in self.runs for trial in planned.trials))

    def runs_on(self, data: str) -> list[PlannedRun]:
        """Return the runs on one data set."""
        return [planned for planned in self.runs if planned.run.data == data]

    def prior_file(self, data: str) -> Path:
        """The config file of the prior on a data set."""
        return self.folder / RUNS / data / f"{self.figure.sheet.prior}.yaml"

    def check_folder(self) -> None:
        """Raise ConfigError if a run or prior of the folder has another config."""
        for planned in self.runs:
            for trial in planned.trials:
                _check_same(trial, planned.config)
                if planned.run.data in self.priors:
                    _check_same_prior(trial, self.priors[planned.run.data])

    def write_configs(self) -> None:
        """Write the config of every run and prior to its file."""
        for planned in self.runs:
            for trial in planned.trials:
                trial.log.parent.mkdir(parents=True, exist_ok=True)
            path = planned.trials[0].config
            write_bytes(path, dump_yaml(planned.config).encode())
        for data, config in self.priors.items():
            write_bytes(self.prior_file(data), dump_yaml(config).encode())


def make_plan(request: FigureRequest, folder: Path) -> FigurePlan:
    """Plan what a table or figure needs; folder: the folder of the paper.

    Raises ConfigError for an unknown name in `only` and for invalid settings.
    """
    figure, seeds = request.figure, request.chosen_seeds()
    data, methods = request.chosen()
    request.check_settings()
    return FigurePlan(
        figure=figure,
        folder=folder,
        seeds=seeds,
        images={
            name: validate(
                request.changed_images(name), FigureImages, f"{figure.name}, images of {name}"
            )
            for name in data
        },
        runs=tuple(
            _planned(request, run, folder, seeds)
            for run in figure.runs
            if run.data in data and run.method in methods
        ),
        priors={
            name: _prior(request, name, tree)
            for name, tree in figure.priors.items()
            if name in data
        },
        features=request.features or figure.sheet.features,
        other_network=request.other_network(),
        num_samples=request.num_samples,
        command=request.command(),
        deviations=request.deviations(),
    )


def _planned(
    request: FigureRequest, run: FigureRun, folder: Path, seeds: Sequence[int]
) -> PlannedRun:
    where = f"{request.figure.name}, {run.name} on {run.data}"
    config = validate(request.changed(run.tree, run.data), TokenizerRun, where)
    config = config.model_copy(update={"seed": seeds[0]})
    return PlannedRun(run, config, tuple(_trials(folder, run, config, seeds)))


def _prior(request: FigureRequest, data: str, tree: Mapping[str, Any]) -> PriorRun:
    """Return the config of the prior; its tokenizer and codes are set for each run."""
    whole = {**tree, "tokenizer": "-", "data": {**tree["data"], "source": "-"}}
    where = f"{request.figure.name}, {request.figure.sheet.prior} on {data}"
    return validate(apply_overrides(whole, request.prior_settings), PriorRun, where)


def _trials(
    folder: Path, run: FigureRun, config: TokenizerRun, seeds: Sequence[int]
) -> Iterator[Trial]:
    home = folder / RUNS / run.data
    for seed in seeds:
        yield Trial(
            method=f"{run.data}/{run.name}",
            seed=seed,
            steps=config.train.steps,
            config=home / f"{run.name}.yaml",
            folder=home / run.name / f"seed-{seed}",
            log=home / run.name / f"seed-{seed}.log",
        )


def _check_same(trial: Trial, config: TokenizerRun) -> None:
    """Raise ConfigError if the folder holds a run of this name with other settings."""
    stored = trial.folder / CONFIG
    if not stored.is_file():
        return
    one, two = (method_identity(c) for c in (load_config(stored, TokenizerRun), config))
    remedy = f"{trial.folder} and {folder_of(trial)}"
    _refuse(differences(one, two), trial.folder, remedy)


def _check_same_prior(trial: Trial, config: PriorRun) -> None:
    """Raise ConfigError if the folder holds a prior of this trial with other settings."""
    stored = prior_folder(trial) / CONFIG
    if stored.is_file():
        one, two = (prior_identity(c) for c in (load_config(stored, PriorRun), config))
        _refuse(differences(one, two), stored.parent, str(folder_of(trial)))


def _refuse(changed: Mapping[str, tuple[Any, Any]], folder: Path, whole: str) -> None:
    """Raise ConfigError for a run folder with other settings; whole: the folders to delete."""
    if changed:
        listed = "\n".join(f"  {k}: {a!r} stored, {b!r} requested" for k, (a, b) in changed.items())
        raise ConfigError(
            f"{folder}: holds a run with other settings:\n{listed}\n"
            f"pass the same settings, choose another --out, or delete {whole} to train it again"
        )
