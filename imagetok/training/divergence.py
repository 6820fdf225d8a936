"""A loss that is not finite: noticed at every step, told when the host looks anyway."""

from pathlib import Path

import torch

from imagetok.training import checkpoint
from imagetok.training.outputs import StepOutput


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
