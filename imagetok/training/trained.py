"""Training a tokenizer from a config, and what a finished run gives back."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagetok.config import Overrides, validate
from imagetok.data import open_image
from imagetok.processes import choose_device, keep_freed_memory
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.config_input import ConfigInput, check_kind, open_config, run_folder
from imagetok.training.metrics_log import read_json_lines
from imagetok.training.run_folder import check_plugins
from imagetok.training.tokenizer import train_tokenizer


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """A finished run."""

    folder: Path
    """The run folder: config.yaml, metrics.jsonl, checkpoints/ and the artifact."""
    measures: Mapping[str, float | int]
    """Of the exported weights on the held-out split."""
    device: torch.device
    """Where the artifact is loaded to."""

    @property
    @abstractmethod
    def artifact(self) -> Path:
        """The folder of the finished tokenizer or prior."""

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl: `step`, `split` (train or test), and what was measured."""
        return read_json_lines(self.folder / "metrics.jsonl")

    def title(self) -> str:
        """What was trained, and where it lies."""
        return f"{self.artifact.name} {self.artifact}, on the held-out split"

    def rows(self) -> Mapping[str, object]:
        """The held-out measures."""
        return self.measures


@dataclass(frozen=True, repr=False)
class TrainedTokenizer(Trained):
    """A finished run of a tokenizer or VAE."""

    @property
    def artifact(self) -> Path:
        """The folder of the tokenizer."""
        return self.folder / "tokenizer"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer, in eval mode; ArtifactError for a VAE, which has no codes."""
        return open_tokenizer(self.autoencoder)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The trained tokenizer or VAE, in eval mode."""
        return Autoencoder.from_pretrained(self.artifact).to(self.device)

    def pictures(self) -> Mapping[str, np.ndarray]:
        """Held-out images above their reconstructions, as the last evaluation drew them."""
        files = sorted((self.folder / "pictures").glob("step-*.png"))
        caption = "held-out images above their reconstructions"
        return {caption: open_image(files[-1])} if files else {}


def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    init_from: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedTokenizer:
    """Train the tokenizer (or VAE) that a config of `kind: tokenizer` describes.

    >>> run = imagetok.train("digits/edvae", out="runs/a", set={"train.steps": 500})
    >>> run.tokenizer, run.measures["psnr_db"], run.history[-1]

    config: a YAML file, the name of a config, a mapping of the same form, or a `TokenizerRun`.
    out: the run folder (default: runs/NAME with - for /, for a file or name). One that is not empty
    is refused, unless `resume` says to go on there; a finished run is only read.
    set: settings to change, {"train.steps": 500} or ["train.steps=500"].
    init_from: a folder or Hub id of the same architecture whose weights to start from.
    device: "cpu" to stay off a GPU.
    Training keeps freed memory for later steps; that holds for the whole process.
    Raises ConfigError for a config that cannot be, of a prior, or of another run in `out`;
    InputError for images that are missing or damaged; DivergedError; ResourceError; StoppedError
    after a signal, when a checkpoint is on disk (call it again with resume=True).
    """
    with progress_shown(progress):
        given = open_config(config, set)
        check_kind(given, "tokenizer")
        run = run_folder(given, out, resume=resume)
        if resume:
            check_plugins(run)
        keep_freed_memory()
        measures = train_tokenizer(
            validate(given.tree, TokenizerRun, given.where),
            run,
            resume=resume,
            init_from=init_from,
            device=None if device is None else str(device),
        )
        return TrainedTokenizer(run, measures, choose_device(device))
