"""The type checker of the test run: beartype, to which an `int` is a `float` too, as PEP 484 says.

By default beartype refuses the int, and of a list it looks at one random element: a list of ints
and floats then passes in most runs and fails in some.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_AS_PEP_484 = BeartypeConf(is_pep484_tower=True)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which checks its arguments and result in every call."""
    return beartype(conf=_AS_PEP_484)(function)
