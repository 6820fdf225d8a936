"""Finding the weights of a tokenizer to convert: in a file, a folder, or a Hub repository."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from imagetok import hub
from imagetok.conversion.checkpoints import SUFFIXES, Checkpoint
from imagetok.errors import ConfigError, InputError
from imagetok.io.json_files import read_json
from imagetok.io.regular_files import read_regular
from imagetok.suggestions import one_line, shown

_CARD = "README.md"
_CONFIG = "config.json"
_INDEX = ".index.json"
_MAX_FRONT = 1 << 16
"""Bytes of a model card in which its front matter is looked for."""
_SHARD = re.compile(r"[\w.-]+-\d{5}-of-\d{5}\.safetensors", re.ASCII)


class Source(NamedTuple):
    """Where weights come from, and what is written beside them."""

    origin: str
    """The file's name, or user/name@commit and the file's name, for the model card."""
    checkpoints: tuple[Checkpoint, ...]
    """The files that hold the tensors: one, or the shards of a large model."""
    config: Mapping[str, Any]
    """What config.json in the file's folder says of the tokenizer; empty if there is none."""
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
    if not _exists(path):
        raise InputError(
            f"{path}: no such file or folder; expected the weights of a tokenizer "
            f"({', '.join(SUFFIXES)}), their folder, or a Hub id like user/name"
        )
    if path.is_dir():
        return _opened(_LocalFolder(path), wanted, part)
    if file is not None:
        raise ConfigError(f"file {file}: expected none beside {path}, which is a file itself")
    return _opened(_LocalFolder(path.parent), [path.name], part)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, or a folder that may not be read
        raise InputError(f"{one_line(str(path), 80)}: cannot be read: {error.strerror}") from None


class _LocalFolder:
    """Files of a local folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        path = self.folder / name
        return path if _exists(path) else None

    def origin(self, name: str) -> str:
        return PurePosixPath(name).name

    def missing(self, names: Sequence[str]) -> Exception:
        there = sorted(
            str(path.relative_to(self.folder))
            for pattern in ("*", "*/*")
            for path in self.folder.glob(pattern)
            if path.suffix in SUFFIXES
        )
        found = (
            f"found {', '.join(there[:8])}; name one with file (--file)"
            if there
            else "found no weights"
        )
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
            " or ".join(names),
            "name the file of the weights with file (--file), as the repository lists it",
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
        _check_unique(checkpoints)
        return Source(
            folder.origin(name),
            tuple(checkpoints),
            _config(folder.find(str(beside / _CONFIG))),
            _license(folder.find(str(beside / _CARD)) or folder.find(_CARD)),
        )
    raise folder.missing(wanted)


def _check_unique(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise InputError for a tensor that two files hold, of which only one can be meant."""
    found: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        if twice := next((name for name in checkpoint.shapes if name in found), None):
            raise InputError(
                f"{checkpoint.path}: expected every tensor in one file, found "
                f"{one_line(twice, 80)} in {found[twice].path.name} too; download the files again"
            )
        found |= dict.fromkeys(checkpoint.shapes, checkpoint)


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
    content = _read_object(index)
    files = content.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InputError(f"{index}: expected an index of weights, with weight_map")
    names = {str(file) for tensor, file in files.items() if part in tensor}
    names = names or {*map(str, files.values())}
    if other := next((name for name in sorted(names) if not _SHARD.fullmatch(name)), None):
        raise InputError(
            f"{index}: expected names like model-00001-of-00002.safetensors, found "
            f"{one_line(other, 80)}"
        )
    return sorted(names)


def _config(path: Path | None) -> Mapping[str, Any]:
    """Return the part of a config that is the tokenizer's."""
    config = {} if path is None else _read_object(path)
    inner = config.get("vq_config") or config
    if not isinstance(inner, dict):
        raise InputError(f"{path}: expected an object as vq_config, found {shown(inner)}")
    return inner


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {shown(content)}")
    return content


def _license(card: Path | None) -> str | None:
    """Return the license in the front matter of a model card."""
    if card is None:
        return None
    try:
        text = read_regular(card)[:_MAX_FRONT].decode("utf-8-sig", errors="replace")
        front = re.match(r"---[ \t]*\r?\n(.*?)\n---", text, re.DOTALL)
        stated = yaml.safe_load(front[1]) if front else None
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(stated, dict):
        return None
    names = (stated.get(key) for key in ("license_name", "license"))
    return next((n for n in names if isinstance(n, str) and n.strip()), None)
