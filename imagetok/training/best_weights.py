"""The weights with the lowest held-out measure of a run, kept beside the last ones."""

import logging
from typing import Literal, NamedTuple

from torch import Tensor, nn

from imagetok.training.checkpoint_record import BestRecord

logger = logging.getLogger("imagetok")
BEST = "best.safetensors"
"""The best weights' file in a checkpoint: as old as the checkpoint, so a resumed run has them."""


class WeightSelection(NamedTuple):
    """By what a run tells good weights from better ones, and what it does about it."""

    measure: str
    """A held-out measure; lower is better."""
    patience: int | None
    """Evaluations in a row without a lower one after which training ends; None: never."""
    export: Literal["best", "last"]
    """The weights that become the artifact."""


class BestWeights:
    """The best weights so far, on the CPU.

    Only evaluations that fall due take part, not one that the end of `train.steps` brings about:
    so a run with more steps has the best weights, and ends where it would have, in one go.
    """

    def __init__(self, selection: WeightSelection):
        self.selection = selection
        self.tensors: dict[str, Tensor] = {}
        self.step = 0
        self.measures: dict[str, float | int] = {}
        self.since = 0
        """Evaluations that came after it."""

    def note(self, step: int, measures: dict[str, float | int], model: nn.Module) -> None:
        """Take the weights of an evaluation that fell due if they are better than all before."""
        name = self.selection.measure
        if not self.is_beaten_by(measures):
            self.since += 1
            if self.is_over:
                logger.info(
                    "step %d: ends early, since the held-out %s was not below the %.4f of step %d "
                    "in %d evaluations",
                    *(step, name, self.measures[name], self.step, self.since),
                )
            return
        self.step, self.measures, self.since = step, measures, 0
        state = model.state_dict()
        self.tensors = {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}

    def is_beaten_by(self, measures: dict[str, float | int]) -> bool:
        """Whether other measures are better; any are where there is no best yet."""
        name = self.selection.measure
        if not self.measures:
            return True
        return name in measures and measures[name] < self.measures[name]

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        patience = self.selection.patience
        return patience is not None and self.since >= patience

    def record(self) -> BestRecord:
        """What a checkpoint keeps beside the tensors."""
        return BestRecord(step=self.step, measures=self.measures, since=self.since)

    def restore(self, record: BestRecord | None, tensors: dict[str, Tensor]) -> None:
        """As it was at a checkpoint; of one from before there was a best, nothing."""
        if record is not None:
            self.step, self.measures, self.since = record.step, record.measures, record.since
            self.tensors = tensors
