"""Detecting training that diverged: a loss that is not finite, or held-out measures beyond limits.

The loss is checked at every step on the device, and reported when the host waits for it anyway.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from imagetok.training import checkpoint
from imagetok.training.step_output import StepOutput

GROWTH = 100.0
"""Largest ratio of a measure to its lowest value so far that is allowed at the end of training."""
HOPELESS = 1e4
"""Factor by which a measure may exceed its final limit during training."""


class DivergenceLimits(NamedTuple):
    """Limits of a held-out measure; a run beyond them counts as diverged."""

    measure: str
    """Name of the measure; lower is better."""
    most: float
    """Limit for exported weights; a constant output would not exceed it."""
    noticed: float
    """Value below which growth is not a fault, because the measure is good in any case."""

    def fault(self, measures: Mapping[str, Any], best: float | None, is_last: bool) -> str | None:
        """Return why measures count as diverged; None if they do not.

        best: lowest value of the run so far, None if unknown. is_last: whether the measures are
        those of the weights to export.
        """
        value = measures.get(self.measure)
        if value is None:
            return None
        message = f"the held-out {self.measure} is {value:.4g}"
        if value > self.most * (1 if is_last else HOPELESS):
            return f"{message}; a model that learned nothing does not exceed {self.most:.4g}"
        if is_last and best is not None and value > max(self.noticed, GROWTH * best):
            return f"{message}, but was {best:.4g} before"
        return None


class Divergence:
    """Records the first step whose loss is not finite, on the device, so that no step waits."""

    def __init__(self, device: torch.device):
        self._terms: tuple[str, ...] = ()
        # Of the newest step, or of the first one whose loss is not finite.
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._values = torch.zeros(1, device=device)  # the loss, then its terms

    def watch(self, step: int, output: StepOutput) -> None:
        """Check the output of a step; some metrics may be measured at some steps only."""
        new = [name for name in output.metrics if name not in self._terms]
        if new:
            self._terms += tuple(new)
            self._values = torch.cat([self._values, self._values.new_zeros(len(new))])
        finite = torch.zeros_like(output.loss)
        terms = (output.metrics.get(name, finite) for name in self._terms)
        values = torch.stack([output.loss, *terms])
        was_finite = self._values[0].isfinite()
        self._step = torch.where(was_finite, step, self._step)
        self._values = torch.where(was_finite, values, self._values)

    def refuse(self, checkpoints: Path) -> None:
        """Raise DivergedError if a loss was not finite, with its step and terms; syncs the GPU."""
        loss, *terms = self._values.tolist()
        if not math.isfinite(loss):
            bad = [k for k, v in zip(self._terms, terms, strict=True) if not math.isfinite(v)]
            what = f"the loss is not finite ({', '.join(bad) or 'but each of its terms is'})"
            checkpoint.refuse(checkpoints, int(self._step), what)
