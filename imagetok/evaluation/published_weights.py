"""Weights that others publish: fetched once, checked by hash, read as tensors and never as code."""

import hashlib
import io
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from imagetok.errors import InputError, ResourceError
from imagetok.io.regular_files import check_safetensors, read_regular

_MAX_BYTES = 8 << 30


def published(
    url: str, path: Path | None = None, *, option: str, exact: bool = False
) -> dict[str, Tensor]:
    """The tensors of a published file, or of `path` in its place.

    url: its name ends with -HASH.pth, the begin of its sha256. Looked for in torch.hub's folder,
    else fetched into it. option: what names it on the command line, for the hint. exact: a
    .safetensors file is held to the hash, too, because measures get the papers' plain names.
    Raises InputError for a .pth file of other bytes, ResourceError when it cannot be had.
    """
    return read_weights(path or _fetch(url, option), _hash_in(url), exact=exact)


def is_checked(path: Path | None) -> bool:
    """Whether `published` holds what it reads from `path` to the hash, without `exact`."""
    return path is None or path.suffix != ".safetensors"


def read_weights(path: Path, prefix: str = "", *, exact: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file whose sha256 starts with `prefix`.

    exact: that of a .safetensors file must, too. What a .pth file tells of the versions of its
    modules (`_metadata`, as in nn.Module.state_dict) goes along.
    """
    try:
        if path.suffix == ".safetensors":
            check_safetensors(path)
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read weights: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(prefix) and (exact or is_checked(path)):
        raise InputError(
            f"{path}: expected the published file, whose sha256 starts with {prefix}, "
            f"found {digest[:8]}"
        )
    try:
        if path.suffix == ".safetensors":
            return load(content)
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever a reader of arbitrary bytes comes upon; torch advises to run them
        raise InputError(
            f"{path}: not a file of weights: expected tensors by name and nothing else, in a "
            ".safetensors file or in a .pth file as torch.save(model.state_dict(), FILE) writes it"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a checkpoint, as training scripts write them
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected names and tensors, found something else")
    tensors = OrderedDict((str(k).removeprefix("module."), v) for k, v in state.items())
    vars(tensors)["_metadata"] = getattr(state, "_metadata", None)
    return tensors


def load_weights(model: nn.Module, state: dict[str, Tensor], name: Path | str) -> None:
    """Give a model its weights; InputError, with the name of their file, if they do not fit."""
    with refusing_unfit_weights(name):
        model.load_state_dict(state)


@contextmanager
def refusing_unfit_weights(name: Path | str) -> Iterator[None]:
    """Turn what load_state_dict raises for weights that do not fit into the InputError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{name}: weights of another network: {str(error)[:300]}") from error


@contextmanager
def as_own_file(state: dict[str, Tensor]) -> Iterator[str]:
    """A .pth file written here, for classes that unpickle what they are given."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file)
        file.flush()
        yield file.name


def hash_of(model: nn.Module) -> str:
    """sha256 of every tensor of a model by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fetch(url: str, option: str) -> Path:
    """A file of torch.hub's folder, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=_hash_in(url), progress=False
            )
        except (OSError, RuntimeError) as error:
            raise ResourceError(
                f"cannot fetch {url}: {error}; without a network, put that file at {path}, or name "
                f"its place: {option}=FILE"
            ) from error
    return path


def _hash_in(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[1]
