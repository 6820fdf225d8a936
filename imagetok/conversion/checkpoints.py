"""Reading other programs' checkpoints without running anything that is in them.

A checkpoint is a safetensors file, or a file of torch.save, which is read with `weights_only`.
Public training checkpoints hold a few objects besides tensors; those of `_INERT` are replaced by
empty objects, and a file that names any other class is refused.
"""

import hashlib
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor

from imagetok.errors import InputError
from imagetok.io.regular_files import check_safetensors, open_regular
from imagetok.suggestions import one_line, shown

_INERT = (
    "argparse.Namespace",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "collections.defaultdict",
    "typing.Any",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
)
"""Classes and functions that public checkpoints of these families name beside their tensors. None
of them is imported or called: an object of no content takes the place of each of theirs."""
_CONTAINERS = ("ema", "model", "state_dict")
"""Keys of training checkpoints that hold the weights; the first that holds tensors is read, as
the authors of LlamaGen do. Averaged weights come first."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of checkpoint files."""


class Checkpoint:
    """The named tensors of a file; tensors are read when they are asked for."""

    def __init__(self, path: Path):
        self.path = path
        self.container = ""
        """Key of the training checkpoint that held the weights; empty for plain weights."""
        try:
            self._open()
        except OSError as error:
            raise InputError(
                f"{path}: cannot read the weights: {error.strerror or one_line(str(error))}"
            ) from error

    def _open(self) -> None:
        with open_regular(self.path):  # a pipe or a device is refused
            pass
        if self.path.suffix == ".safetensors":
            self._open_safetensors()
        else:
            state = _tensors_in(self.path, _unpickled(self.path), self)
            self.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
            self.tensor: Callable[[str], Tensor] = state.__getitem__
        if not self.shapes:
            raise InputError(f"{self.path}: expected named tensors, found none")

    def _open_safetensors(self) -> None:
        check_safetensors(self.path)
        try:
            file = safetensors.safe_open(self.path, framework="pt").__enter__()
            self.shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise InputError(
                f"{self.path}: damaged or truncated ({one_line(str(error))}); download it again"
            ) from None
        self.tensor = file.get_tensor

    def sha256(self) -> str:
        """Return the hash of the whole file."""
        with open_regular(self.path) as file:
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def _unpickled(path: Path) -> object:
    """Return the content of a file of torch.save, in which nothing has been run."""
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        # Without mmap, by which torch neither unpacks entries nor checks their sizes.
        with warnings.catch_warnings(action="ignore"), _inert_classes():
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # any error of a parser; torch's advises unsafe loading
        raise InputError(f"{path}: {_reason(error)}") from None


def _check_archive(path: Path) -> None:
    """Raise InputError for a program, or entries that are not what was written."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise InputError(
                f"{path}: expected weights, found a TorchScript archive, which is a program; ask "
                "its authors for the weights, as a state dict or in safetensors"
            )
        twice = next((name for name, number in Counter(names).items() if number > 1), None)
        if damaged := twice or archive.testzip():
            fault = (
                "is there twice" if twice else "does not have the checksum that is stored for it"
            )
            raise InputError(
                f"{path}: damaged: its part {one_line(damaged, 80)} {fault}; download it again"
            )


def _reason(error: Exception) -> str:
    """Say why a file was not read, without torch's advice."""
    if named := re.search(r"\bGLOBAL (\S+)", str(error)):
        return (
            f"expected weights alone, found {one_line(named[1], 80)}, a class or function that "
            "would run when the file is read; nothing was run. If you trust the file, save its "
            "tensors anew with safetensors.torch.save_file, where the program that wrote it is "
            "installed"
        )
    return (
        "this is no readable file of weights; expected a .safetensors file, or one written by "
        "torch.save that holds tensors alone; download it again"
    )


class _Empty:
    """Takes the place of an object of another program, whose content is dropped."""

    def __new__(cls, *_: object, **__: object) -> "_Empty":
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object):
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


@contextmanager
def _inert_classes() -> Iterator[None]:
    stand_ins: list[Any] = [(type(name, (_Empty,), {}), name) for name in _INERT]
    with torch.serialization.safe_globals(stand_ins):
        yield


def _tensors_in(path: Path, content: object, found: Checkpoint) -> Mapping[str, Tensor]:
    """Return the tensors of a state dict, or of the one in a training checkpoint."""
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected named tensors, found {type(content).__name__}; save the state dict"
        )
    for key in _CONTAINERS:
        if state := _tensors_of(content.get(key)):
            found.container = key
            break
    else:
        state = _tensors_of(content)
    if (other := next((k for k in state if not isinstance(k, str)), None)) is not None:
        raise InputError(f"{path}: expected texts as the names of tensors, found {shown(other)}")
    return state


def _tensors_of(content: object) -> dict[str, Tensor]:
    """Return the tensors; an entry that is not one, such as a step count, is no weight."""
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
