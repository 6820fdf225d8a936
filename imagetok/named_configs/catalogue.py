"""Listing, finding, printing and copying named configs."""

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
from imagetok.named_configs.experiments import Experiment, expand
from imagetok.named_configs.figures import NamedFigure, figures
from imagetok.named_configs.folder import NO_CONFIGS, SHEETS, config_files, configs_folder
from imagetok.results import Result
from imagetok.suggestions import counted, nearest

ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True, repr=False)
class NamedConfig(Result):
    """A config with a name: a file, or an experiment from a sheet."""

    name: str
    """Name such as digits/edvae or papers/edvae/cifar10/edvae; for your own file FOLDER/FILE."""
    about: str
    """Short description."""
    source: str
    """Source of the settings: a file, or a paper and the table in it."""
    expected: Mapping[str, str] = field(default_factory=dict)
    """Numbers that the source reports, by measure."""
    path: Path | None = None
    """File of the config; None for an experiment."""
    settings: Mapping[str, Any] | None = None
    """Config of an experiment as plain data; None for a file."""
    header: str = ""
    """Comment lines of an experiment."""
    aliases: tuple[str, ...] = ()
    """Other names of the config."""
    is_given_file: bool = False
    """Whether it was opened by the path of a file, not by name."""

    @cached_property
    def text(self) -> str:
        """The whole config as YAML, with comments on what it is and how to run it."""
        if self.path is not None:
            return read_text(self.path)
        return self.header + compact_yaml(self.settings or {})

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The whole config as plain data, without overrides and before validation."""
        if self.path is not None:
            return read_yaml(self.path)
        return copy.deepcopy(dict(self.settings or {}))

    @property
    def where(self) -> str:
        """Path or name of the config for messages, as it was opened."""
        return str(self.path) if self.is_given_file else self.name

    @property
    def run_folder(self) -> Path:
        """Default run folder, which is different for each name."""
        return Path("runs") / self.name.replace("/", "-")

    def taken(self) -> str:
        """Return one line that identifies the config, for the output of a command."""
        if self.is_given_file:
            return f"config: the file {self.path}"
        return f"config: {self.name}, a named config ({self.path or self.source})"

    def summary(self) -> str:
        """Return description, source and the source's numbers in one line."""
        numbers = ", ".join(f"{name}: {value}" for name, value in self.expected.items())
        return f"{self.about} ({self.source})" + (f"; {numbers}" if numbers else "")

    def save(self, path: str | Path) -> Path:
        """Write the config to a YAML file, or to a new file in a folder; return its path.

        Raises ConfigError if the file exists.
        """
        target = Path(path)
        if target.is_dir():
            target = target / f"{self.name.rpartition('/')[2]}.yaml"
        if target.exists():
            raise ConfigError(f"{target}: exists already; choose another name, or delete it")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, self.text.encode())
        return target

    def title(self) -> str:
        return f"{self.name}: {self.about}"

    def rows(self) -> Mapping[str, object]:
        """Return source and expected numbers."""
        return {"source": self.source, **self.expected}


@dataclass(frozen=True, repr=False)
class Catalogue(Result):
    """All named configs in order; iterate over them, or open one by its name."""

    entries: tuple[NamedConfig, ...]
    figures: Mapping[str, NamedFigure] = field(default_factory=dict)
    """Tables and figures of papers by name, such as papers/edvae/table-1."""

    def __iter__(self) -> Iterator[NamedConfig]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> NamedConfig:
        """Return the config of a name or alias; raises ConfigError with the nearest names."""
        found = self._by_name.get(name)
        if name in self.figures and found is None:
            raise ConfigError(
                f"{name}: expected a config, found the name of a table or figure, which "
                f"`imagetok reproduce {name}` makes"
            )
        if found is None:
            near = [known for known in self.names if known.endswith(f"/{name}")]
            near += nearest(name, self._by_name, count=3)
            hint = f"did you mean {' or '.join(near[:3])}? " if near else ""
            raise ConfigError(
                f"{name}: cannot read the config: no file and no named config has this name; "
                f"{hint}`imagetok configs` lists the configs that come with imagetok"
            )
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """All names, without aliases."""
        return tuple(entry.name for entry in self.entries)

    def under(self, group: str) -> "Catalogue":
        """Return the configs, tables and figures whose names begin with `group/`."""
        start = f"{group.rstrip('/')}/"
        return Catalogue(
            tuple(e for e in self.entries if e.name.startswith(start)),
            {name: figure for name, figure in self.figures.items() if name.startswith(start)},
        )

    @cached_property
    def _by_name(self) -> dict[str, NamedConfig]:
        """Configs by name and alias; a name takes precedence over an equal alias."""
        aliases = {alias: entry for entry in self.entries for alias in entry.aliases}
        return aliases | {entry.name: entry for entry in self.entries}

    def title(self) -> str:
        drawn = (
            f", {counted(len(self.figures), 'table or figure', 'tables and figures')} of papers"
            if self.figures
            else ""
        )
        return f"{counted(len(self), 'named config')}{drawn}"

    def rows(self) -> Mapping[str, object]:
        """Return a description of each table and figure, then of each config with its numbers."""
        drawn = {name: figure.summary() for name, figure in self.figures.items()}
        return drawn | {entry.name: entry.summary() for entry in self.entries}


@overload
def configs(name: None = None) -> Catalogue: ...
@overload
def configs(name: str | Path) -> NamedConfig: ...
def configs(name: str | Path | None = None) -> Catalogue | NamedConfig:
    """List the named configs, or open one.

    name: a name such as digits/edvae, with or without a leading `configs/` and an ending `.yaml`,
    or the path of your own file, which takes precedence. None lists all named configs.
    Raises ConfigError, with the nearest names, for an unknown name.

    >>> configs("digits/edvae").tree["kind"]
    'tokenizer'
    """
    return _catalogue(configs_folder()) if name is None else find_config(name)


def find_config(config: str | Path) -> NamedConfig:
    """Open a config by file or name; an existing file takes precedence. ConfigError for neither."""
    path = Path(config)
    if path.is_file():
        return _given(path)
    if path.is_dir():
        raise ConfigError(f"{path}: expected a config file or the name of a config, found a folder")
    name, folder = _normal(path), configs_folder()
    file = folder / f"{name}.yaml"
    if file.is_file() and name.split("/")[0] not in NO_CONFIGS:
        return _file(file, name, None)
    # Keep the name that was asked for, which may be an alias with a run folder of its own.
    return replace(_catalogue(folder)[name], name=name)


def find_figure(name: str) -> NamedFigure:
    """Return the table or figure of a paper with this name; ConfigError with the nearest names."""
    known = _catalogue(configs_folder()).figures
    if name not in known:
        near = [other for other in known if other.endswith(f"/{name}")]
        near += nearest(name, known, count=3)
        hint = f"did you mean {' or '.join(near[:3])}? " if near else ""
        raise ConfigError(
            f"{name}: expected the name of a paper's table or figure; {hint}`imagetok configs "
            "papers` lists them"
        )
    return known[name]


def _given(path: Path) -> NamedConfig:
    """Open a file; its name is its path below `configs`, or else FOLDER/FILE."""
    parts = path.resolve().with_suffix("").parts
    name = "/".join(_below_configs(parts) or parts[-2:])
    return NamedConfig(name, "your own file", str(path), path=path, is_given_file=True)


def _below_configs(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the part of a path after its last folder `configs`; empty if there is none."""
    folders = [i for i, part in enumerate(parts[:-1]) if part == "configs"]
    return parts[folders[-1] + 1 :] if folders else ()


def _normal(path: Path) -> str:
    """Return the name in a path such as `./configs/digits/edvae.yaml`, of any checkout."""
    parts = [part for part in path.parts if part != "."]
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    name = "/".join(parts)
    return name.removesuffix(path.suffix) if path.suffix in ENDINGS else name


def _catalogue(folder: Path) -> Catalogue:
    sheets = [
        _of_sheet(sheet, f"{group}/{sheet.stem}", sheet.stat().st_mtime_ns)
        for group in SHEETS
        for sheet in sorted((folder / group).glob("*.yaml"))
    ]
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
        for found, _ in sheets
        for one in found
    ]
    by_path = {entry.aliases[0]: entry for entry in described}
    files = [_file(folder / f"{name}.yaml", name, by_path.get(name)) for name in config_files()]
    drawn = {figure.name: figure for _, found in sheets for figure in found}
    return Catalogue((*files, *described), drawn)


@lru_cache(maxsize=64)
def _of_sheet(
    sheet: Path, group: str, modified_ns: int
) -> tuple[tuple[Experiment, ...], tuple[NamedFigure, ...]]:
    """Return the experiments and figures of a sheet; cached, because expanding takes a second."""
    del modified_ns  # only a part of the cache's key
    expanded = expand(read_yaml(sheet), group, str(sheet))
    return tuple(expanded.experiments()), tuple(figures(expanded))


def _file(path: Path, name: str, same: NamedConfig | None) -> NamedConfig:
    """Open a file of `configs/`; same: the experiment with the same config, if there is one."""
    if same is not None:
        return NamedConfig(name, same.about, same.source, same.expected, path=path)
    about, source = _about(read_text(path)), f"configs/{name}.yaml"
    return NamedConfig(name, about, source, path=path)


def _about(text: str) -> str:
    """Return the first sentence of the comment at the beginning of a config file."""
    lines = re.match(r"(?:#.*\n)*", text)
    words = " ".join(
        line.lstrip("# ") for line in (lines[0] if lines else "").split("\n")
        if not line.startswith("#   ")
    )  # fmt: skip
    return re.split(r"[.:;](?:\s|$)", words, maxsplit=1)[0]
