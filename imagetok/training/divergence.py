"""Training that diverged: to a loss that is not finite, noticed at every step and told when the
host looks anyway, or to measures that are finite nonsense.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from imagetok.training import checkpoint
from imagetok.training.step_output import StepOutput

GROWTH = 100.0
"""How many times its lowest a measure may be at the end."""
HOPELESS = 1e4
"""How many times the most that is allowed at the end a measure may be on the way there."""


class DivergenceLimits(NamedTuple):
    """What a held-out measure of a run that learns stays below."""

    measure: str
    """Lower is better."""
    most: float
    """Above it, a constant answer would be better."""
    noticed: float
    """Only above it growth is a fault: below, the measure is good whatever it was before."""

    def fault(self, measures: Mapping[str, Any], best: float | None, is_last: bool) -> str | None:
        """Why these measures are nonsense; None where they are not.

        best: the lowest of the run so far, None if unknown. is_last: of what would be exported.
        """
        value = measures.get(self.measure)
        if value is None:
            return None
        message = f"the held-out {self.measure} is {value:.4g}"
        if value > self.most * (1 if is_last else HOPELESS):
            return f"{message}, and above {self.most:.4g} nothing was learned"
        if is_last and best is not None and value > max(self.noticed, GROWTH * best):
            return f"{message}, and was {best:.4g} before"
        return None


class Divergence:
    """The first step whose loss was not finite, kept on the device so that no step waits for it."""

    def __init__(self, device: torch.device):
        self._step = torch.full((), -1, device=device)
        self._is_bad = torch.zeros((), dtype=torch.bool, device=device)
        self._terms: tuple[str, ...] = ()

    def watch(self, step: int, output: StepOutput) -> None:
        """Take in the output of a step."""
        self._terms = tuple(output.metrics)
        finite = torch.stack([output.loss, *output.metrics.values()]).isfinite()
        is_first = ~finite[0] & (self._step < 0)
        self._step = torch.where(is_first, step, self._step)
        self._is_bad = torch.where(is_first, ~finite[1:], self._is_bad)

    def refuse(self, checkpoints: Path) -> None:
        """Raise DivergedError with the step and its terms, if there was one; waits for the GPU."""
        step = int(self._step)
        if step >= 0:
            bad = [k for k, is_bad in zip(self._terms, self._is_bad, strict=True) if is_bad]
            what = f"the loss is not finite ({', '.join(bad) or 'each of its terms is'})"
            checkpoint.refuse(checkpoints, step, what)
