"""The trials of a paper's table or figure: each of its tokenizers with each seed."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagetok.comparison.plan import Trial, method_identity
from imagetok.config import (
    Overrides,
    Section,
    apply_overrides,
    differences,
    dump_yaml,
    load_config,
    override_texts,
    validate,
)
from imagetok.data import DataConfig
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError
from imagetok.images import ImageContract
from imagetok.named_configs import FigureRun, NamedFigure
from imagetok.training.config import TokenizerRun
from prior.config import PriorRun

RUNS = "runs"
"""Folder of the trials, which the tables and figures of a paper share."""


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
    num_samples: int | None
    """Samples of each prior; None for as many as papers draw."""
    options: tuple[str, ...]
    """Command-line options, without paths of this machine."""
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

    def command(self) -> str:
        """Return the command line without paths of this machine."""
        return shlex.join(["imagetok", "reproduce", self.figure.name, *self.options])

    def write_configs(self) -> None:
        """Write the config of every run and prior to its file.

        Raises ConfigError if a run of the folder has another config.
        """
        for planned in self.runs:
            for trial in planned.trials:
                _check_same(trial, planned.config)
                trial.log.parent.mkdir(parents=True, exist_ok=True)
            path = planned.trials[0].config
            write_bytes(path, dump_yaml(planned.config).encode())
        for data, config in self.priors.items():
            write_bytes(self.prior_file(data), dump_yaml(config).encode())


def make_plan(
    figure: NamedFigure,
    folder: Path,
    *,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    settings: Overrides = (),
    prior_settings: Overrides = (),
    features: Sequence[str] = (),
    num_samples: int | None = None,
    download: bool = False,
) -> FigurePlan:
    """Plan what a table or figure needs.

    folder: the folder of the paper. The other arguments are those of `reproduce`. Raises
    ConfigError for an unknown name in `only` and for invalid settings.
    """
    data, methods = _chosen(figure, only)
    chosen = tuple(seeds) or figure.seeds
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"--seeds: expected different seeds, found {list(chosen)}")
    runs = [run for run in figure.runs if run.data in data and run.method in methods]
    planned = []
    for run in runs:
        where = f"{figure.name}, {run.name} on {run.data}"
        tree = apply_overrides(dict(run.tree), settings)
        if download and run.data in figure.downloads:
            tree = apply_overrides(tree, {"data.download": True})
        config = validate(tree, TokenizerRun, where)
        config = config.model_copy(update={"seed": chosen[0]})
        trials = tuple(_trials(folder, run, config, chosen))
        planned.append(PlannedRun(run, config, trials))
    priors = {
        name: validate(
            apply_overrides(
                {**tree, "tokenizer": "set for each run", "data": {**tree["data"], "source": "-"}},
                prior_settings,
            ),
            PriorRun,
            f"{figure.name}, {figure.sheet.prior} on {name}",
        )
        for name, tree in figure.priors.items()
        if name in data
    }
    changed = override_texts(settings), override_texts(prior_settings)
    given = {
        "--only": only,
        "--seeds": [",".join(map(str, seeds))] if seeds else [],
        "--set": [_without_places(text) for text in changed[0]],
        "--prior-set": [_without_places(text) for text in changed[1]],
        "--features": [_without_folder(spec) for spec in features],
        "--samples": [] if num_samples is None else [str(num_samples)],
    }
    names = [spec.partition("=")[0] for spec in features]
    deviating = dict(given)
    if sorted(names) == sorted(figure.sheet.features):
        deviating.pop("--features")  # the paper's networks, from files
    del deviating["--only"]
    return FigurePlan(
        figure=figure,
        folder=folder,
        seeds=chosen,
        images={name: _images(figure, name, settings, download) for name in data},
        runs=tuple(planned),
        priors=priors,
        features=tuple(features) or figure.sheet.features,
        num_samples=num_samples,
        options=tuple(
            [word for option, texts in given.items() for text in texts for word in (option, text)]
            + (["--download"] if download else [])
        ),
        deviations=tuple(
            f"{option.removeprefix('--')} {text}"
            for option, texts in deviating.items()
            for text in texts
            if not text.startswith("data.root=")
        ),
    )


def _images(figure: NamedFigure, data: str, settings: Overrides, download: bool) -> FigureImages:
    """Return the images of a data set, with the settings that concern them."""
    own = figure.data_settings[data]
    tree = {"data": dict(own["data"]), "tokenizer": {"image": dict(own["tokenizer.image"])}}
    about = [
        text for text in override_texts(settings) if text.startswith(("data", "tokenizer.image"))
    ]
    changed = apply_overrides(tree, about)
    if download and data in figure.downloads:
        changed = apply_overrides(changed, {"data.download": True})
    whole = {"data": changed["data"], "image": changed["tokenizer"]["image"]}
    return validate(whole, FigureImages, f"{figure.name}, {data}")


def _without_places(text: str) -> str:
    """Return an override for the record of a command, without a path of this machine."""
    key, _, value = text.partition("=")
    return f"{key}=..." if key.startswith("data") and "/" in value else text


def _without_folder(spec: str) -> str:
    name, equals, file = spec.partition("=")
    return f"{name}{equals}{Path(file).name}"


def _chosen(figure: NamedFigure, only: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the data sets and methods that `only` leaves."""
    data, methods = figure.sheet.data, figure.sheet.methods
    unknown = [name for name in only if name not in (*data, *methods)]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: expected a data set or method of {figure.name}: "
            f"{', '.join((*data, *methods))}"
        )
    kept = [tuple(name for name in names if name in only) or names for names in (data, methods)]
    return kept[0], kept[1]


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
    stored = trial.folder / "config.yaml"
    if not stored.is_file():
        return
    one, two = (method_identity(c) for c in (load_config(stored, TokenizerRun), config))
    changed = differences(one, two)
    if changed:
        listed = "\n".join(f"  {k}: {a!r} stored, {b!r} requested" for k, (a, b) in changed.items())
        raise ConfigError(
            f"{trial.folder}: holds a run with other settings:\n{listed}\n"
            "pass the same settings, choose another --out, or delete that folder to train it again"
        )
