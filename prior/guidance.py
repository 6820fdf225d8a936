"""Classifier-free guidance (Ho and Salimans 2022)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prior.stepper import NO_LABEL, Stepper


class GuidedStepper(Stepper):
    """Guided logits u + guidance * (c - u) from logits with the class (c) and without it (u).

    Both go through the prior as one batch of twice the size, so that weights are read only once.
    """

    def __init__(
        self,
        start: Callable[[Int[Tensor, " B"]], Stepper],
        labels: Int[Tensor, " B"],
        guidance: float,
    ):
        self.stepper = start(torch.cat([labels, torch.full_like(labels, NO_LABEL)]))
        self.guidance = guidance

    def next_logits(self, previous: Int[Tensor, " B"] | None) -> Float[Tensor, "B K"]:
        both = previous.repeat(2) if previous is not None else None
        conditional, null = self.stepper.next_logits(both).chunk(2)
        return null + self.guidance * (conditional - null)
