"""Keeping the weights with the lowest held-out measure of a run beside the last ones."""

import logging
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor

from imagetok.suggestions import counted
from imagetok.training.checkpoint_record import BestRecord

logger = logging.getLogger("imagetok")
BEST = "best.safetensors"
"""File of the best weights in each checkpoint, so that a resumed run has them."""


class WeightSelection(NamedTuple):
    """Choice of the best weights, early stopping, and which weights are exported."""

    measure: str
    """Held-out measure by which weights are compared; lower is better."""
    patience: int | None
    """Number of evaluations without improvement after which training stops; None: never."""
    export: Literal["best", "last"]
    """Weights that become the artifact."""


class BestWeights:
    """The best weights so far, on the CPU.

    Only evaluations at `train.evaluate_every` are compared, not an extra one at the end of
    `train.steps`; so a run that is extended has the same best weights, and stops at the same step,
    as one that had all steps from the start.
    """

    def __init__(self, selection: WeightSelection):
        self.selection = selection
        self.tensors: dict[str, Tensor] = {}
        self.step = 0
        self.measures: dict[str, float | int] = {}
        self.since = 0
        """Number of evaluations since the best one."""

    def note(
        self,
        step: int,
        measures: dict[str, float | int],
        weights: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        """Record an evaluation at `train.evaluate_every`; keep the weights if they are the best.

        weights: returns the evaluated weights by name; called only if they are kept.
        """
        name = self.selection.measure
        if not self.is_beaten_by(measures):
            self.since += 1
            if self.is_over:
                logger.info(
                    "step %d: stopping early, because the held-out %s has not been below the %.4f "
                    "of step %d in %s",
                    *(step, name, self.measures[name], self.step),
                    counted(self.since, "evaluation"),
                )
            return
        self.step, self.measures, self.since = step, measures, 0
        self.tensors = {k: v.detach().cpu().clone().contiguous() for k, v in weights().items()}

    def is_beaten_by(self, measures: dict[str, float | int]) -> bool:
        """Return whether other measures are better; True if there is no best yet."""
        name = self.selection.measure
        if not self.measures:
            return True
        return name in measures and measures[name] < self.measures[name]

    @property
    def is_over(self) -> bool:
        """Whether training should stop, because `patience` evaluations brought no improvement."""
        patience = self.selection.patience
        return patience is not None and self.since >= patience

    def record(self) -> BestRecord:
        """Return the record that a checkpoint stores beside the tensors."""
        return BestRecord(step=self.step, measures=self.measures, since=self.since)

    def restore(self, record: BestRecord | None, tensors: dict[str, Tensor]) -> None:
        """Restore the state of a checkpoint; None: it recorded no best weights."""
        if record is not None:
            self.step, self.measures, self.since = record.step, record.measures, record.since
            self.tensors = tensors
