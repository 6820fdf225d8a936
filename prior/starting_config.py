"""`prior.init`: like `imagetok.init`, with the time that training the prior will take."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from imagetok.analysis.starting_config import StartingConfig, training_text
from imagetok.analysis.starting_config import init as init_tokenizer
from imagetok.config import load_config
from imagetok.images import pixels_text
from imagetok.progress import progress_shown
from imagetok.training.estimate import RunEstimate
from prior.config import PriorRun
from prior.estimate import estimate_on_noise
from prior.training import CodeForm

LIMIT = 2.0
"""Seconds of measured steps of the prior."""


@dataclass(frozen=True, repr=False)
class StartingConfigs(StartingConfig):
    """Configs that suit a folder of pictures, with an estimate for the prior."""

    prior_estimate: RunEstimate
    """Facts and time of training the prior, from a few steps on random codes on this machine."""

    def durations(self) -> Mapping[str, object]:
        """Return the time of training the tokenizer and the prior as text."""
        return {**super().durations(), "prior, about": training_text(self.prior_estimate)}


def init(
    folder: Path | str,
    *,
    out: Path | str | None = None,
    method: str = "vqvae-ema",
    size: int | None = None,
    holdout: float = 0.1,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> StartingConfigs:
    """Look through a folder of pictures, and write configs that suit it; estimate both trainings.

    Like `imagetok.init`, which knows no priors; see there for the arguments and errors.

    >>> start = prior.init("photos")
    >>> start.estimate.seconds, start.prior_estimate.seconds
    """
    start = init_tokenizer(
        folder,
        out=out,
        method=method,
        size=size,
        holdout=holdout,
        device=device,
        progress=progress,
    )
    with progress_shown(progress):
        estimate = _estimate(start, device)
    values = {field.name: getattr(start, field.name) for field in fields(start)}
    return StartingConfigs(**values, prior_estimate=estimate)


def _estimate(start: StartingConfig, device: torch.device | str | None) -> RunEstimate:
    facts = start.estimate.facts
    form = CodeForm(
        "",
        facts.num_codes or (),
        facts.grids or (),
        pixels_text(start.image),
        facts.class_names,
    )
    config = load_config(start.prior_config, PriorRun)
    place = None if device is None else str(device)
    return estimate_on_noise(
        config, form, images=facts.images, held_out=facts.held_out, limit=LIMIT, device=place
    )
