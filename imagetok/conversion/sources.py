"""Finding the weights of a tokenizer to convert: in a file, a folder, or a Hub repository."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from torch import Tensor

from imagetok import hub
from imagetok.conversion.checkpoints import SUFFIXES, Checkpoint
from imagetok.errors import ConfigError, InputError
from imagetok.io.json_files import read_json
from imagetok.io.regular_files import read_regular
from imagetok.suggestions import one_line

_CARD = "README.md"
_CONFIG = "config.json"
_INDEX = ".index.json"
_SHARD = re.compile(r"[\w.-]+-\d{5}-of-\d{5}\.safetensors", re.ASCII)


class Source(NamedTuple):
    """Where weights come from, and what is written beside them."""

    origin: str
    """The file's name, or user/name@commit and the file's name, for the model card."""
    checkpoints: tuple[Checkpoint, ...]
    """The files that hold the tensors: one, or the shards of a large model."""
    config: Mapping[str, Any]
    """Content of config.json in the file's folder; empty if there is none."""
    license: str | None
    """License that the model card of the file's folder states, if there is one."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name."""
        return {k: v for checkpoint in self.checkpoints for k, v in checkpoint.shapes.items()}

    def tensor(self, name: str) -> Tensor:
        """Read a tensor."""
        return next(c for c in self.checkpoints if name in c.shapes).tensor(name)


def open_source(
    source: Path | str, usual: Sequence[str], file: str | None = None, part: str = ""
) -> Source:
    """Open the weights of a tokenizer of another program.

    source: a file, a folder, or a Hub id user/name[@revision]. usual: the files that the family's
    weights usually are, with their folders, in order of preference. file: the file inside the
    folder or repository instead. part: text in the names of the tokenizer's tensors, by which only
    the files of a large model that hold some are opened.

    Raises ConfigError for a `file` that is no name inside the folder, InputError for weights that
    are not there, damaged or unsafe, ArtifactError and ResourceError for the Hub's.
    """
    wanted = usual if file is None else [_inside(file)]
    hub_id = hub.parse(source)
    if hub_id is not None:
        return _opened(_HubFolder(hub.Repository(hub_id)), wanted, part)
    path = Path(source)
    if path.is_dir():
        return _opened(_LocalFolder(path), wanted, part)
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder; expected the weights of a tokenizer "
            f"({', '.join(SUFFIXES)}), their folder, or a Hub id like user/name"
        )
    if file is not None:
        raise ConfigError(f"file {file}: expected none beside {path}, which is a file itself")
    return _opened(_LocalFolder(path.parent), [path.name], part)


class _LocalFolder:
    """Files of a local folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.exists() else None

    def origin(self, name: str) -> str:
        return PurePosixPath(name).name

    def missing(self, names: Sequence[str]) -> Exception:
        there = sorted(
            str(path.relative_to(self.folder))
            for pattern in ("*", "*/*")
            for path in self.folder.glob(pattern)
            if path.suffix in SUFFIXES
        )
        found = f"found {', '.join(there[:8])}; name one with file" if there else "found no weights"
        return InputError(f"{self.folder}: expected {' or '.join(names)}, {found}")


class _HubFolder:
    """Files of one commit of a repository, downloaded when they are asked for."""

    def __init__(self, repository: hub.Repository):
        self.repository = repository

    def find(self, name: str) -> Path | None:
        return self.repository.find(name)

    def origin(self, name: str) -> str:
        return f"{self.repository.origin}/{name}"

    def missing(self, names: Sequence[str]) -> Exception:
        return self.repository.missing(
            " or ".join(names), "name the file of the weights with file, as the repository lists it"
        )


def _opened(folder: _LocalFolder | _HubFolder, wanted: Sequence[str], part: str) -> Source:
    for name in wanted:
        path = folder.find(name)
        if path is None:
            continue
        names = _shards(path, part) if name.endswith(_INDEX) else [PurePosixPath(name).name]
        beside = PurePosixPath(name).parent
        checkpoints = []
        for shard in names:
            shard_path = folder.find(str(beside / shard))
            if shard_path is None:
                raise folder.missing([str(beside / shard)])
            checkpoints.append(Checkpoint(shard_path))
        return Source(
            folder.origin(name),
            tuple(checkpoints),
            _config(folder.find(str(beside / _CONFIG))),
            _license(folder.find(str(beside / _CARD)) or folder.find(_CARD)),
        )
    raise folder.missing(wanted)


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name.endswith((*SUFFIXES, _INDEX)):
        raise ConfigError(
            f"file: expected the name of a file of weights ({', '.join(SUFFIXES)}, or the "
            f"{_INDEX} of several) inside the folder, found {name!r}"
        )
    return str(path)


def _shards(index: Path, part: str) -> list[str]:
    """Return the files of a large model that hold tensors with `part` in their names, else all."""
    try:
        files = {str(k): str(v) for k, v in json.loads(read_regular(index))["weight_map"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise InputError(f"{index}: expected an index of weights, with weight_map") from None
    names = {file for tensor, file in files.items() if part in tensor} or {*files.values()}
    if other := next((name for name in sorted(names) if not _SHARD.fullmatch(name)), None):
        raise InputError(
            f"{index}: expected names like model-00001-of-00002.safetensors, found "
            f"{one_line(other, 80)}"
        )
    return sorted(names)


def _config(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {one_line(str(error))}") from None
    return config if isinstance(config, dict) else {}


def _license(card: Path | None) -> str | None:
    """Return the license in the front matter of a model card."""
    if card is None:
        return None
    try:
        text = read_regular(card).decode(errors="replace")
    except OSError:
        return None
    front = re.match(r"\A---\s*\n(.*?)\n---", text, re.DOTALL)
    stated = dict(re.findall(r"^(license(?:_name)?):\s*(.+)$", front[1], re.M)) if front else {}
    name = stated.get("license_name") or stated.get("license")
    return one_line(name.strip("'\" "), 80) if name else None
