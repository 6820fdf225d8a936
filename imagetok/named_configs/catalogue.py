"""The configs by name: listed, found, printed and copied."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

from imagetok.config import compact_yaml, read_text, read_yaml
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError
from imagetok.named_configs.experiments import Experiment, experiments
from imagetok.named_configs.folder import SHEETS, config_files, configs_folder
from imagetok.results import Result
from imagetok.suggestions import nearest

ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, repr=False)
class NamedConfig(Result):
    """A config that has a name: a file, or an experiment that a sheet describes."""

    name: str
    """As in digits/edvae or papers/edvae/cifar10/edvae; of a file of yours FOLDER/FILE."""
    about: str
    """What it is, in one sentence."""
    source: str
    """Where its settings are from: a file, or a paper and the table in it."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """The numbers that the source reports, by measure."""
    path: Path | None = None
    """Its file; None for an experiment."""
    settings: Mapping[str, Any] | None = None
    """The tree of an experiment; None for a file."""
    header: str = ""
    """The comment lines of an experiment."""
    aliases: tuple[str, ...] = ()
    """Other names of it."""
    is_given_file: bool = False
    """Whether it was given as the path of a file and not by name."""

    @cached_property
    def text(self) -> str:
        """The whole config as YAML, with comments that say what it is and how it is run."""
        if self.path is not None:
            return read_text(self.path)
        return self.header + compact_yaml(self.settings or {})

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The whole config as plain data, without overrides and not yet validated."""
        if self.path is not None:
            return read_yaml(self.path)
        return copy.deepcopy(dict(self.settings or {}))

    @property
    def where(self) -> str:
        """What errors call it: the path of a file that was given, else the name."""
        return str(self.path) if self.is_given_file else self.name

    @property
    def run_folder(self) -> Path:
        """Where its run goes if nothing else is asked for; no two names share one."""
        return Path("runs") / self.name.replace("/", "-")

    def taken(self) -> str:
        """One line that says which config this is, for the output of a command."""
        if self.is_given_file:
            return f"config: the file {self.path}"
        return f"config: {self.name}, a named config ({self.path or self.source})"

    def summary(self) -> str:
        """What it is, where it is from, and the numbers that its source reports, in one line."""
        numbers = ", ".join(f"{name}: {value}" for name, value in self.expected.items())
        return f"{self.about} ({self.source})" + (f"; {numbers}" if numbers else "")

    def save(self, path: str | Path) -> Path:
        """Write the config as a YAML file of its own; ConfigError where there is one."""
        target = Path(path)
        if target.is_dir():
            target = target / f"{self.name.rpartition('/')[2]}.yaml"
        if target.exists():
            raise ConfigError(f"{target}: is there already; choose another name, or delete it")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, self.text.encode())
        return target

    def title(self) -> str:
        return f"{self.name}: {self.about}"

    def rows(self) -> Mapping[str, object]:
        """Source and expected numbers."""
        return {"source": self.source, **self.expected}


@dataclass(frozen=True, repr=False)
class Catalogue(Result):
    """Every named config, in order; iterate over it, or open one by its name."""

    entries: tuple[NamedConfig, ...]

    def __iter__(self) -> Iterator[NamedConfig]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> NamedConfig:
        """The config of a name or alias; ConfigError with the nearest names for another."""
        found = self._by_name.get(name)
        if found is None:
            near = [known for known in self.names if known.endswith(f"/{name}")]
            near += nearest(name, self._by_name, count=3)
            hint = f"did you mean {' or '.join(near[:3])}? " if near else ""
            raise ConfigError(
                f"{name}: cannot read the config: there is no such file, and no named config; "
                f"{hint}`imagetok configs` lists those that come with imagetok"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """All names, without aliases."""
        return tuple(entry.name for entry in self.entries)

    def under(self, group: str) -> "Catalogue":
        """Those whose names begin with `group/`."""
        start = f"{group.rstrip('/')}/"
        return Catalogue(tuple(e for e in self.entries if e.name.startswith(start)))

    @cached_property
    def _by_name(self) -> dict[str, NamedConfig]:
        """Names before aliases, which the files of a method may have, too."""
        aliases = {alias: entry for entry in self.entries for alias in entry.aliases}
        return aliases | {entry.name: entry for entry in self.entries}

    def title(self) -> str:
        return f"{len(self)} named configs"

    def rows(self) -> Mapping[str, object]:
        """What each is, where it is from, and the numbers that its source reports."""
        return {entry.name: entry.summary() for entry in self.entries}


@overload
def configs(name: None = None) -> Catalogue: ...
@overload
def configs(name: str | Path) -> NamedConfig: ...
def configs(name: str | Path | None = None) -> Catalogue | NamedConfig:
    """List the named configs, or open one.

    name: a name such as digits/edvae, with or without `configs/` before it and `.yaml` behind it,
    or the path of a file of yours, which is looked for first. Without one, all are listed. Raises
    ConfigError, with the nearest names, for one that is not known.

    >>> configs("digits/edvae").tree["kind"]
    'tokenizer'
    """
    return _catalogue(configs_folder()) if name is None else find_config(name)


def find_config(config: str | Path) -> NamedConfig:
    """What a user means by CONFIG: an existing file first, then a name; ConfigError for neither."""
    path = Path(config)
    if path.is_file():
        return _given(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the path of a config file, or a name")
    name, folder = _normal(path), configs_folder()
    file = folder / f"{name}.yaml"
    if file.is_file() and name.split("/")[0] not in SHEETS:
        return _file(file, name, None)
    # Under the name as it was given, which may be an alias: its run has a folder of its own.
    return replace(_catalogue(folder)[name], name=name)


def _given(path: Path) -> NamedConfig:
    """A file: its name is its path below `configs`, or else that of its folder and its own."""
    parts = path.resolve().with_suffix("").parts
    name = "/".join(_below_configs(parts) or parts[-2:])
    return NamedConfig(name, "a file of yours", str(path), path=path, is_given_file=True)


def _below_configs(parts: tuple[str, ...]) -> tuple[str, ...]:
    """What comes after the last folder named `configs` in a path; nothing where there is none."""
    folders = [i for i, part in enumerate(parts[:-1]) if part == "configs"]
    return parts[folders[-1] + 1 :] if folders else ()


def _normal(path: Path) -> str:
    """The name in `./configs/digits/edvae.yaml`, of whichever checkout."""
    parts = [part for part in path.parts if part != "."]
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    name = "/".join(parts)
    return name.removesuffix(path.suffix) if path.suffix in ENDINGS else name


def _catalogue(folder: Path) -> Catalogue:
    described = [
        NamedConfig(
            name=one.name,
            about=one.what,
            source=one.source,
            expected=one.expected,
            settings=one.tree,
            header=one.header(),
            aliases=(one.path,),
        )
        for group in SHEETS
        for sheet in sorted((folder / group).glob("*.yaml"))
        for one in _of_sheet(sheet, f"{group}/{sheet.stem}", sheet.stat().st_mtime_ns)
    ]
    by_path = {entry.aliases[0]: entry for entry in described}
    files = [_file(folder / f"{name}.yaml", name, by_path.get(name)) for name in config_files()]
    return Catalogue((*files, *described))


@lru_cache(maxsize=64)
def _of_sheet(sheet: Path, group: str, modified_ns: int) -> tuple[Experiment, ...]:
    """The experiments of a sheet, which take a second to lay out; read again when it changes."""
    del modified_ns  # part of the key alone
    return tuple(experiments(read_yaml(sheet), group, str(sheet)))


def _file(path: Path, name: str, same: NamedConfig | None) -> NamedConfig:
    """A config file; same: the experiment that it is, with a paper's numbers."""
    if same is not None:
        return NamedConfig(name, same.about, same.source, same.expected, path=path)
    about, source = _about(read_text(path)), f"configs/{name}.yaml"
    return NamedConfig(name, about, source, path=path)


def _about(text: str) -> str:
    """The first sentence of the comment that a file begins with."""
    lines = re.match(r"(?:#.*\n)*", text)
    words = " ".join(
        line.lstrip("# ") for line in (lines[0] if lines else "").splitlines()
        if not line.startswith("#   ")
    )  # fmt: skip
    return re.split(r"[.:;](?:\s|$)", words, maxsplit=1)[0]
