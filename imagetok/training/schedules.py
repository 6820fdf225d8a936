"""Schedules: values that depend only on the config and the step.

A schedule without an explicit length gets `train.steps` of the config that it belongs to.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from imagetok.config import Section, Steps, value_at

S = TypeVar("S", bound=Section)
Value = float | Tensor
"""The value of a schedule: a number, or a scalar on the device that holds it."""


class Constant(Section):
    """Always `value`. In place of the section, the number alone may stand."""

    kind: Literal["constant"] = "constant"
    value: NonNegativeFloat
    """The value."""

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
    """The value at step 0."""
    end: NonNegativeFloat
    """The value from step `steps` on."""
    steps: Steps | None = None
    """The length in steps; when absent, the `train.steps` that the run starts with."""

    def at(self, step: int) -> float:
        """The value at a step."""
        way = 1 - math.cos(min(step / _length(self), 1.0) * math.pi / 2)
        return way * self.end + (1 - way) * self.start


class Exponential(Section):
    """start * exp(-rate * step)."""

    kind: Literal["exponential"] = "exponential"
    start: PositiveFloat = 1.0
    """The value at step 0."""
    rate: NonNegativeFloat
    """Rate of decay: each step multiplies by exp(-rate)."""

    def at(self, step: int) -> float:
        """The value at a step."""
        return self.start * math.exp(-self.rate * step)


class Staircase(Section):
    """start * factor^n after n times `every` steps, as PyTorch's StepLR."""

    kind: Literal["staircase"] = "staircase"
    start: NonNegativeFloat
    """The value of the first `every` steps."""
    factor: Annotated[float, Field(ge=0, le=1)] = 0.5
    """What the value is multiplied by."""
    every: Steps
    """Steps between two changes."""

    def at(self, step: int) -> float:
        """The value at a step."""
        return self.start * self.factor ** (step // self.every)


class WarmupCosine(Section):
    """Linear from 0 to peak over `warmup` steps, then half a cosine to end at `steps`."""

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    peak: PositiveFloat
    """The value after the warm-up."""
    end: NonNegativeFloat = 0.0
    """The value from step `steps` on."""
    warmup: Annotated[int, Field(ge=0, lt=2**53)]
    """Length of the warm-up in steps."""
    steps: Steps | None = None
    """The length in steps, warm-up included; when absent, the `train.steps` that the run starts
    with.
    """

    def at(self, step: int) -> float:
        """The value at a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min((step - self.warmup) / max(_length(self) - self.warmup, 1), 1.0)
        return self.end + (self.peak - self.end) * 0.5 * (1 + math.cos(done * math.pi))


def _section_of(value: object) -> object:
    """Return a number as the section of a constant schedule, and anything else unchanged."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"kind": "constant", "value": value} if is_number else value


Schedule = Annotated[
    Annotated[
        Constant | QuarterCosine | Exponential | Staircase | WarmupCosine,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_section_of),
]
"""A schedule; a number in a config is a constant one, and dumps have the section."""


def values_at(schedules: Mapping[str, Schedule], step: int) -> dict[str, float]:
    """Return the values of schedules at a step, by name."""
    return {name: schedule.at(step) for name, schedule in schedules.items()}


def _length(schedule: QuarterCosine | WarmupCosine) -> int:
    if schedule.steps is None:
        raise ValueError(f"{schedule.kind}: expected `steps`, which is optional only inside a run")
    return schedule.steps


def with_lengths(section: S, length_of: Callable[[str], int | None]) -> S:
    """Return a copy in which schedules without an explicit length have the length of `length_of`.

    length_of: dotted key of a length -> number of steps; None leaves the schedule unchanged. The
    lengths still count as not explicit, so that the function can be applied again.
    """
    return _filled(section, length_of, "")


def _filled(value: Any, length_of: Callable[[str], int | None], path: str) -> Any:
    if isinstance(value, QuarterCosine | WarmupCosine):
        given = value.model_fields_set - ({"steps"} if value.steps is None else set())
        if "steps" in given or (steps := length_of(f"{path}.steps")) is None:
            return value
        # Not model_copy(update=...), which would mark the length as explicit.
        return type(value).model_construct(given, **{**dict(value), "steps": steps})
    items: dict[str, Any] = dict(value) if isinstance(value, Section | dict) else {}
    filled = {
        name: _filled(item, length_of, f"{path}.{name}" if path else name)
        for name, item in items.items()
    }
    changed = {name: item for name, item in filled.items() if item is not items[name]}
    if not changed:
        return value
    return value.model_copy(update=changed) if isinstance(value, Section) else {**items, **changed}


def given_tree(section: Section) -> dict[str, Any]:
    """Return the section as plain data, without lengths of schedules that are not explicit."""
    tree = section.model_dump(mode="json")
    keys: list[str] = []
    with_lengths(section, lambda key: keys.append(key))
    for key in keys:
        *sections, name = key.split(".")
        value_at(tree, ".".join(sections)).pop(name)
    return tree
