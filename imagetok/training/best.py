"""The weights with the lowest held-out measure of a run, kept beside the last ones."""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger("imagetok")
BEST = "best.safetensors"
"""The best weights' file in a checkpoint: as old as the checkpoint, so a resumed run has them."""


class Selection(NamedTuple):
    """By what a run tells good weights from better ones, and what it does about it."""

    measure: str
    """A held-out measure; lower is better."""
    patience: int | None
    """Evaluations in a row without a lower one after which training ends; None: never.

    The one at the end of `train.steps` counts only where it falls due, so that a run with more
    steps ends where it would have ended in one go.
    """
    export: Literal["best", "last"]
    """The weights that become the artifact."""


class Best:
    """The best weights so far, on the CPU."""

    def __init__(self, selection: Selection):
        self.selection = selection
        self.tensors: dict[str, Tensor] = {}
        self.step = 0
        self.measures: dict[str, float | int] = {}
        self.since = 0
        """Evaluations that came after it and count."""

    def note(
        self, step: int, measures: dict[str, float | int], model: nn.Module, *, counts: bool
    ) -> None:
        """Take the weights of an evaluation if they are better than all before.

        counts: towards the patience, if they are not.
        """
        name = self.selection.measure
        if self.measures and measures[name] >= self.measures[name]:
            self.since += counts
            if counts and self.is_over:
                logger.info(
                    "step %d: ends early, since the held-out %s was not below the %.4f of step %d "
                    "in %d evaluations",
                    *(step, name, self.measures[name], self.step, self.since),
                )
            return
        self.step, self.measures, self.since = step, measures, 0
        state = model.state_dict()
        self.tensors = {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        patience = self.selection.patience
        return patience is not None and self.since >= patience

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        return {"step": self.step, "measures": self.measures, "since": self.since}

    def restore(self, record: dict[str, Any], checkpoint: Path) -> None:
        """As it was at a checkpoint; of one from before there was a best, nothing."""
        if record:
            self.step, self.measures = record["step"], record["measures"]
            self.since = record["since"]
            self.tensors = load_file(checkpoint / BEST) if self.measures else {}
