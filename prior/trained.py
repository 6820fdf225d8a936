"""`prior.train`: training a prior from a config, and its result."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import torch

from imagetok.config import Overrides, validate
from imagetok.processes import choose_device, keep_freed_memory
from imagetok.progress import progress_shown
from imagetok.training.config_input import ConfigInput, check_kind, choose_run_folder, open_config
from imagetok.training.estimate import RunEstimate
from imagetok.training.next_commands import sample_command
from imagetok.training.run_folder import check_plugins
from imagetok.training.trained import Trained
from prior.base import Prior
from prior.config import PriorRun
from prior.estimate import estimate_prior
from prior.training import train_prior


@dataclass(frozen=True, repr=False)
class TrainedPrior(Trained):
    """The result of `train`: a finished run of a prior."""

    @property
    def artifact(self) -> Path:
        """Folder of the prior, including its tokenizer."""
        return self.folder / "prior"

    @property
    def next_command(self) -> str:
        """The command that draws images."""
        return sample_command(self.artifact, 16, self.folder / "samples")

    @cached_property
    def prior(self) -> Prior:
        """The trained prior, in eval mode."""
        return Prior.from_pretrained(self.artifact).to(self.device)


@overload
def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    dry_run: Literal[False] = False,
    init_from: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedPrior: ...
@overload
def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    dry_run: Literal[True],
    init_from: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> RunEstimate: ...
def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    dry_run: bool = False,
    init_from: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedPrior | RunEstimate:
    """Train the prior that a config of `kind: prior` describes, on existing code datasets.

    >>> where = {"tokenizer": "runs/a/tokenizer", "data.source": "codes/train"}
    >>> run = prior.train("digits/gpt", out="runs/b", set=where | {"data.test": None})
    >>> run.prior.sample(16, label=3, seed=0), run.measures["bits_per_code"]

    config: a YAML file, the name of a config, a mapping of the same form, or a `PriorRun`.
    out, set, resume, dry_run, init_from, device, progress: as for `imagetok.train`.

    Raises ShardError for codes of another tokenizer than the config's, ConfigError for the config
    of a tokenizer, and the errors of `imagetok.train`.
    """
    with progress_shown(progress):
        given = open_config(config, set)
        check_kind(given, "prior")
        keep_freed_memory()
        place = None if device is None else str(device)
        if dry_run:
            config = validate(given.tree, PriorRun, given.where)
            return estimate_prior(config, init_from=init_from, device=place)
        run = choose_run_folder(given, out, resume=resume)
        if resume:
            check_plugins(run)
        measures = train_prior(
            validate(given.tree, PriorRun, given.where),
            run,
            resume=resume,
            init_from=init_from,
            device=place,
        )
        return TrainedPrior(run, measures, choose_device(device))
