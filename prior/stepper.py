"""What draws codes one position after another: the interface between priors and sampling."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

NO_LABEL = -1


class Stepper(ABC):
    """Draws codes one position after another; holds whatever cache makes that fast."""

    @abstractmethod
    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        """Logits of the next position in sampling order, over the codes of its level.

        previous: the codes just drawn; None at the first position.
        """


@runtime_checkable
class StepperFactory(Protocol):
    """Starts drawing codes for labels and, of a prior that reads one, a context."""

    def __call__(
        self, labels: Int[Tensor, " B"], context: Float[Tensor, "B C H W"] | None = None
    ) -> Stepper: ...
