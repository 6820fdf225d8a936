"""Every run of the tests draws the same examples, on one thread."""

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "imagetok",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("imagetok")
torch.set_num_threads(1)


@pytest.fixture
def untyped() -> Iterator[None]:
    """Calls as users make them, without the type checks of the test run: for refusals."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
