"""Schedules are functions of the step: same config, same step, same value."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from imagetok.config import Section


class Constant(Section):
    """Always `value`."""

    kind: Literal["constant"] = "constant"
    value: NonNegativeFloat

    def at(self, step: int) -> float:
        """The value at a step."""
        del step
        return self.value


class QuarterCosine(Section):
    """From start to end over `steps`, slowly at first, then constant (EdVAE, App. C).

    1 - cos(a pi/2) of the way at fraction a; not the half cosine of CosineAnnealingLR.
    """

    kind: Literal["quarter_cosine"] = "quarter_cosine"
    start: NonNegativeFloat
    end: NonNegativeFloat
    steps: PositiveInt

    def at(self, step: int) -> float:
        """The value at a step."""
        way = 1 - math.cos(min(step / self.steps, 1.0) * math.pi / 2)
        return way * self.end + (1 - way) * self.start


class Exponential(Section):
    """start * exp(-rate * step)."""

    kind: Literal["exponential"] = "exponential"
    start: PositiveFloat = 1.0
    rate: NonNegativeFloat

    def at(self, step: int) -> float:
        """The value at a step."""
        return self.start * math.exp(-self.rate * step)


class WarmupCosine(Section):
    """Linear from 0 to peak over `warmup` steps, then half a cosine to end at `steps`."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    peak: PositiveFloat
    end: NonNegativeFloat = 0.0
    warmup: NonNegativeInt
    steps: PositiveInt

    def at(self, step: int) -> float:
        """The value at a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        return self.end + (self.peak - self.end) * 0.5 * (1 + math.cos(done * math.pi))


Schedule = Annotated[
    Constant | QuarterCosine | Exponential | WarmupCosine, Field(discriminator="kind")
]
