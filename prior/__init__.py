"""Priors: autoregressive models of a tokenizer's codes.

The names below are the public API; they are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.inspection import inspect
    from prior.base import Prior
    from prior.code_evaluation import evaluate
    from prior.comparison import compare
    from prior.completion import complete
    from prior.generation import generate, generate_codes
    from prior.inspection import push, verify
    from prior.papers.reproduction import reproduce
    from prior.reports import report
    from prior.sample_evaluation import evaluate_samples
    from prior.sampling_params import SamplingParams
    from prior.starting_config import init
    from prior.trained import train

_HOMES = {
    "Prior": "prior.base",
    "SamplingParams": "prior.sampling_params",
    "compare": "prior.comparison",
    "complete": "prior.completion",
    "evaluate": "prior.code_evaluation",
    "evaluate_samples": "prior.sample_evaluation",
    "generate": "prior.generation",
    "generate_codes": "prior.generation",
    "init": "prior.starting_config",
    "inspect": "imagetok.inspection",
    "push": "prior.inspection",
    "report": "prior.reports",
    "reproduce": "prior.papers.reproduction",
    "train": "prior.trained",
    "verify": "prior.inspection",
}

__all__ = [
    "Prior",
    "SamplingParams",
    "compare",
    "complete",
    "evaluate",
    "evaluate_samples",
    "generate",
    "generate_codes",
    "init",
    "inspect",
    "push",
    "report",
    "reproduce",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prior' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
