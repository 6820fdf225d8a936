"""The inputs of the loss of one micro-batch, anew at each step or in tensors that stay."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from accelerate.utils import recursively_apply

from imagetok.training.batch_order import tensors_of
from imagetok.training.schedules import Value


class StepInputs(NamedTuple):
    """What the loss of one micro-batch is computed from, besides the model."""

    batch: Any
    """As the job's `unpack` returns it, on the device."""
    values: Mapping[str, Value]
    """Values of the job's schedules at this step, by name."""
    noise: torch.Generator
    """On the device, seeded for this micro-batch; always the same object."""


class StaticInputs:
    """Inputs in tensors on the device that stay where they are, for what is recorded there.

    like: inputs of the same form, whose generator is used.
    """

    def __init__(self, like: StepInputs, device: torch.device):
        self._values = {name: torch.empty((), device=device) for name in like.values}
        batch: Any = recursively_apply(torch.empty_like, like.batch)
        self.inputs = StepInputs(batch, self._values, like.noise)

    def fill(self, given: StepInputs) -> None:
        """Copy other inputs into these, without waiting for the device."""
        pairs = zip(tensors_of(self.inputs.batch), tensors_of(given.batch), strict=True)
        for place, tensor in pairs:
            place.copy_(tensor)
        for name, value in given.values.items():
            self._values[name].fill_(value)
