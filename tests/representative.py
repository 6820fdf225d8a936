"""Which cases of a mechanism the default run has; the others are `slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(default: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases for `parametrize` or `params`: those in `default` always run."""
    kept = list(default)
    left = [case for case in kept if case not in (cases := list(cases))]
    assert not left, f"no cases: {left}"
    return [
        case
        if case in kept
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow)
        for case in cases
    ]
