"""The sampling parameters of a prior."""

from typing import Any

from pydantic import field_validator, model_validator

from imagetok.config import Section, validate


class SamplingParams(Section):
    """Sampling parameters; `samples.json` has the same keys.

    temperature: > 0. top_k: sample from the k most likely codes. top_p: sample from the most
    likely codes that together reach this probability, in (0, 1]. greedy: always choose the most
    likely code. guidance: classifier-free guidance, >= 0; 1 is off, larger values follow the label
    more. seed: sample j depends only on the seed and j.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False
    guidance: float = 1.0
    seed: int = 0

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, value: float) -> float:
        if not value > 0:
            raise ValueError(
                f"expected a number above 0, found {value}; "
                "use greedy to choose the most likely code at each step"
            )
        return value

    @field_validator("top_k")
    @classmethod
    def _check_top_k(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError(f"expected 1 or more, found {value}")
        return value

    @field_validator("top_p")
    @classmethod
    def _check_top_p(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"expected a probability in (0, 1], found {value}")
        return value

    @field_validator("guidance")
    @classmethod
    def _check_guidance(cls, value: float) -> float:
        if value < 0:
            raise ValueError(f"expected 0 or more, found {value}")
        return value

    @model_validator(mode="after")
    def _check_greedy(self) -> "SamplingParams":
        if self.greedy and (self.temperature, self.top_k, self.top_p) != (1, None, None):
            raise ValueError(
                "greedy: chooses the most likely code, so temperature, top_k and top_p have no "
                "effect; omit them"
            )
        return self


def sampling_params(**values: Any) -> SamplingParams:
    """Build sampling parameters; raise ConfigError for values out of range and unknown names."""
    return validate(values, SamplingParams, "sampling")
