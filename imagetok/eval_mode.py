"""Whether a module is trained or used."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout, and norms by their running statistics, also in the middle of training."""
    was_training = model.training
    if was_training:  # else other threads may be using it
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()
