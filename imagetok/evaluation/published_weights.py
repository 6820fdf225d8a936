"""Published weights: downloaded once, checked by hash, and loaded without running code."""

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
    """Load the tensors of a published file, or of `path` instead.

    url: ends with -HASH.pth, where HASH is the beginning of the file's sha256. The file is read
    from torch.hub's folder, or downloaded to it. option: the command-line option, for messages.
    exact: check the hash of a .safetensors file too, because its measures get the papers' names.

    Raises InputError for a .pth file with another hash, ResourceError if it cannot be downloaded.
    """
    return read_weights(path or _fetch(url, option), _hash_in(url), exact=exact)


def is_checked(path: Path | None) -> bool:
    """Return whether `published` checks the hash of `path` without `exact`."""
    return path is None or path.suffix != ".safetensors"


def read_weights(path: Path, prefix: str = "", *, exact: bool = False) -> dict[str, Tensor]:
    """Load the tensors of a .safetensors file, or of a .pth file whose sha256 starts with `prefix`.

    exact: check the hash of a .safetensors file too. The versions of modules in a .pth file
    (`_metadata`, as in nn.Module.state_dict) are kept.

    Raises InputError for an unreadable file, another hash, or content other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            check_safetensors(path)
        content = read_regular(path, _MAX_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot read the weights: {error.strerror}") from error
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
    except Exception:  # any error of a parser; torch's own message advises unsafe loading
        raise InputError(
            f"{path}: this is not a file of weights; expected only named tensors, in a "
            ".safetensors file or in a .pth file written by torch.save(model.state_dict(), FILE)"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a checkpoint, as training scripts write them
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected only named tensors, found other content")
    tensors = OrderedDict((str(k).removeprefix("module."), v) for k, v in state.items())
    vars(tensors)["_metadata"] = getattr(state, "_metadata", None)
    return tensors


def load_weights(model: nn.Module, state: dict[str, Tensor], name: Path | str) -> None:
    """Load weights into a model; raise InputError, naming their file, if they do not fit."""
    with refusing_unfit_weights(name):
        model.load_state_dict(state)


@contextmanager
def refusing_unfit_weights(name: Path | str) -> Iterator[None]:
    """Convert the errors of load_state_dict for weights that do not fit to an InputError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{name}: these weights are of another network: {str(error)[:300]}"
        ) from error


@contextmanager
def as_own_file(state: dict[str, Tensor]) -> Iterator[str]:
    """Write tensors to a temporary .pth file, for libraries that unpickle the file they get."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file)
        file.flush()
        yield file.name


def hash_of(model: nn.Module) -> str:
    """Return the sha256 of a model's tensors: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fetch(url: str, option: str) -> Path:
    """Return the path of a file in torch.hub's folder; download it if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=_hash_in(url), progress=False
            )
        except (OSError, RuntimeError) as error:
            raise ResourceError(
                f"cannot download {url}: {error}; without network access, put the file at {path}, "
                f"or pass its path with {option}=FILE"
            ) from error
    return path


def _hash_in(url: str) -> str:
    return Path(url).stem.rsplit("-", 1)[1]
