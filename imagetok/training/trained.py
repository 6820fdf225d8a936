"""Training a tokenizer from a config, and the results of finished runs."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch

from imagetok.config import Overrides, load_config, validate
from imagetok.data import open_image
from imagetok.data.headers import LOOKED_AT
from imagetok.processes import choose_device, keep_freed_memory
from imagetok.progress import progress_shown
from imagetok.results import Result
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.tokenizers.loading import open_tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.config_input import (
    ConfigInput,
    check_kind,
    choose_run_folder,
    open_config,
    with_allowance,
)
from imagetok.training.estimate import RunEstimate
from imagetok.training.metrics_log import read_json_lines
from imagetok.training.next_commands import (
    decode_command,
    encode_command,
    evaluate_command,
    resample_command,
)
from imagetok.training.run_folder import CONFIG, check_plugins
from imagetok.training.run_images import SkippedImages, parse_check, read_skipped
from imagetok.training.tokenizer import estimate_tokenizer, train_tokenizer


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """A finished training run."""

    folder: Path
    """The run folder: config.yaml, metrics.jsonl, checkpoints/ and the artifact."""
    measures: Mapping[str, float | int]
    """Measures of the exported weights on the held-out split, by name."""
    device: torch.device
    """Device to which the artifact is loaded."""

    @property
    @abstractmethod
    def artifact(self) -> Path:
        """The folder of the finished tokenizer or prior."""

    @property
    @abstractmethod
    def next_command(self) -> str:
        """The command that comes next, quoted for a shell."""

    @property
    def next_commands(self) -> tuple[str, ...]:
        """The commands of which one comes next."""
        return (self.next_command,)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl: `step`, `split` (train or test), and the values by name."""
        return read_json_lines(self.folder / "metrics.jsonl")

    def title(self) -> str:
        """Return a heading that names the kind and the folder of the artifact."""
        return f"{self.artifact.name} {self.artifact}, on the held-out split"

    def rows(self) -> Mapping[str, object]:
        """Return the held-out measures."""
        return self.measures


@dataclass(frozen=True, repr=False)
class TrainedTokenizer(Trained):
    """A finished run of a tokenizer or VAE."""

    @property
    def artifact(self) -> Path:
        """The folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def next_command(self) -> str:
        """The command that encodes the training images.

        For a VAE, which has no codes, the one that measures it; for a decoder trained alone, the
        one that decodes SHARDS, a code dataset of the tokenizer that it was trained from.
        """
        return self.next_commands[0]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """The commands of which one comes next; for a decoder trained alone also `sample`."""
        config = load_config(self.folder / CONFIG, TokenizerRun)
        if config.trained == "decoder":
            return (
                decode_command(self.artifact, self.folder / "decoded"),
                resample_command(self.artifact, self.folder / "samples"),
            )
        if config.tokenizer.latent is not None:
            return (evaluate_command(self.artifact, config.data),)
        shards = self.folder / "codes" / "train"
        return (encode_command(self.artifact, config.data, "train", shards, config.max_skip),)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer, in eval mode; raises ArtifactError for a VAE (it has no codes)."""
        return open_tokenizer(self.autoencoder)

    @cached_property
    def skipped(self) -> SkippedImages:
        """The training and held-out images (`train`, `test`) that could not be read."""
        return read_skipped(self.folder)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The trained tokenizer or VAE, in eval mode."""
        return Autoencoder.from_pretrained(self.artifact).to(self.device)

    def pictures(self) -> Mapping[str, np.ndarray]:
        """Return held-out images above their reconstructions, from the last evaluation."""
        files = sorted((self.folder / "pictures").glob("step-*.png"))
        caption = "held-out images above their reconstructions"
        return {caption: open_image(files[-1])} if files else {}


@overload
def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    dry_run: Literal[False] = False,
    init_from: Path | str | None = None,
    max_skip: int | str | None = None,
    check: int | str = LOOKED_AT,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedTokenizer: ...
@overload
def train(
    config: ConfigInput,
    *,
    out: Path | str | None = None,
    set: Overrides = (),
    resume: bool = False,
    dry_run: Literal[True],
    init_from: Path | str | None = None,
    max_skip: int | str | None = None,
    check: int | str = LOOKED_AT,
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
    max_skip: int | str | None = None,
    check: int | str = LOOKED_AT,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TrainedTokenizer | RunEstimate:
    """Train the tokenizer (or VAE) of a config with `kind: tokenizer`.

    >>> run = imagetok.train("digits/edvae", out="runs/a", set={"train.steps": 500})
    >>> run.tokenizer, run.measures["psnr_db"], run.history[-1]

    config: a YAML file, the name of a config, a mapping of the same form, or a `TokenizerRun`.
    out: the run folder (default for a file or name: runs/NAME, with - for each /). A folder that is
    not empty needs `resume`; a finished run is only loaded.
    set: settings to override, {"train.steps": 500} or ["train.steps=500"].
    resume: continue the run in `out`.
    dry_run: train nothing and write nothing: return images, classes, codes, parameters, and the
    time and memory of the run, estimated from a few steps, as a RunEstimate. If the images cannot
    be opened, steps are measured on noise, and the error is the estimate's `refusal`.
    init_from: a folder or Hub id of the same architecture for the initial weights. With the key
    `trained: decoder`, its encoder and quantizer stay, and so do its codes.
    max_skip: unreadable images of each split to allow, a count or a percentage such as "1%"; None:
    the config's `max_skip`. In training others take their place, evaluations leave them out; the
    result's `skipped` lists them.
    check: number of files of each split to look at before training, "all" or "off"; damaged ones
    beyond max_skip are refused then.
    device: "cpu" to use no GPU.
    progress: show a progress bar.

    Training keeps freed memory for later steps, which affects the whole process.
    Raises ConfigError for an invalid config, one of a prior, or a run of another config in `out`;
    InputError for more images than max_skip that are missing or damaged; DivergedError when
    training diverges; ResourceError when a checkpoint cannot be read or written; StoppedError
    after a signal, with a checkpoint saved (call it again with resume=True).
    """
    with progress_shown(progress):
        limit = parse_check(check)
        source = open_config(config, with_allowance(set, max_skip))
        check_kind(source, "tokenizer")
        keep_freed_memory()
        place = None if device is None else str(device)
        if dry_run:
            run_config = validate(source.tree, TokenizerRun, source.where)
            return estimate_tokenizer(run_config, init_from=init_from, device=place)
        run = choose_run_folder(source, out, resume=resume)
        if resume:
            check_plugins(run)
        measures = train_tokenizer(
            validate(source.tree, TokenizerRun, source.where),
            run,
            resume=resume,
            init_from=init_from,
            device=place,
            check=limit,
        )
        return TrainedTokenizer(run, measures, choose_device(device))
