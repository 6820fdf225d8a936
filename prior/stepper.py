"""The stepper: the interface between priors and sampling."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

NO_LABEL = -1


class Stepper(ABC):
    """Computes the logits of one position after another; holds the caches of a prior."""

    @abstractmethod
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        """Return the logits of the next position in sampling order, over the codes of its level.

        previous: the codes at the preceding position; None at the first position.
        """


@runtime_checkable
class StepperFactory(Protocol):
    """Function that returns a stepper for labels and, for priors with one, a context."""

    def __call__(
        self, labels: Int[Tensor, " B"], context: Float[Tensor, "B C H W"] | None = None
    ) -> Stepper: ...
