"""Weights that others publish: fetched once, checked by hash, read as tensors and never as code."""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from imagetok.errors import InputError, ResourceError


def published(url: str, path: Path | None = None, *, exact: bool = False) -> dict[str, Tensor]:
    """The tensors of a published file, or of `path` in its place.

    url: its name ends with -HASH.pth, the begin of its sha256. Looked for in torch.hub's folder,
    else fetched into it. exact: a .safetensors file is held to the hash, too, because measures get
    the papers' plain names. Raises InputError for a .pth file of other bytes, ResourceError when it
    cannot be had.
    """
    return read_weights(path or _fetch(url), _hash_in(url), exact=exact)


def read_weights(path: Path, prefix: str = "", *, exact: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file whose sha256 starts with `prefix`.

    exact: that of a .safetensors file must, too.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read weights: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(prefix) and (exact or path.suffix != ".safetensors"):
        raise InputError(
            f"{path}: expected the published file, whose sha256 starts with {prefix}, "
            f"found {digest[:8]}"
        )
    try:
        if path.suffix == ".safetensors":
            return load(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a file of weights: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a checkpoint, as training scripts write them
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected names and tensors, found something else")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def load_weights(model: nn.Module, state: dict[str, Tensor], name: Path | str) -> None:
    """Give a model its weights; InputError, with the name of their file, if they do not fit."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
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


def _fetch(url: str) -> Path:
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
                "its place: NAME=FILE"
            ) from error
    return path


def _hash_in(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[1]
