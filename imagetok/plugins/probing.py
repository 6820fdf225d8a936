"""Running a custom part once when it is built: its errors as one message, and no side effects."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from imagetok.errors import ConfigError, ImagetokError
from imagetok.plugins.loading import in_one_line

M = TypeVar("M", bound=nn.Module)


@contextmanager
def running(what: str, step: str) -> Iterator[None]:
    """Turn any error of a part's own code into a ConfigError.

    what: the part. step: what of it runs and on what, both for the message.
    """
    try:
        yield
    except (ImagetokError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin's code may raise anything, SystemExit too
        raise ConfigError(
            f"{what}: {step} fails: {in_one_line(error)}; --debug shows where"
        ) from error


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Restore the global random state of torch (CPU), numpy and Python afterwards."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002


def spare(module: M) -> M:
    """Return a copy to run, so that the module stays as it is; itself if it cannot be copied."""
    try:
        return copy.deepcopy(module)
    except Exception:  # something that it holds, such as a lock
        return module


def is_on_cpu(*modules: nn.Module) -> bool:
    """Return whether modules have all their tensors on the CPU, and so does what they create."""
    held = (t for m in modules for t in (*m.parameters(), *m.buffers()))
    return all(tensor.device.type == "cpu" for tensor in (torch.empty(0), *held))


def check_registered_tensors(module: nn.Module, what: str) -> None:
    """Raise ConfigError for a tensor or module that is a plain attribute.

    It would neither be saved with the weights nor be moved to a GPU.
    """
    registered = {id(t) for t in (*module.parameters(), *module.buffers(), *module.modules())}
    for prefix, inner in module.named_modules():
        for name, value in vars(inner).items():
            for found in value if isinstance(value, list | tuple) else (value,):
                if isinstance(found, Tensor | nn.Module) and id(found) not in registered:
                    raise ConfigError(_unregistered(what, f"{prefix}.{name}".strip("."), found))


def _unregistered(what: str, name: str, found: Tensor | nn.Module) -> str:
    remedy = (
        "make it a torch.nn.Parameter, or use register_buffer"
        if isinstance(found, Tensor)
        else "put modules into a torch.nn.ModuleList"
    )
    return (
        f"{what}: {name}: expected a parameter, buffer or submodule, found a plain attribute of "
        f"type {type(found).__qualname__}, which is not saved with the weights; {remedy}"
    )
