"""Opening the config of a run from a file, a name, a plain mapping, or a typed config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from imagetok.config import Overrides, Section, apply_overrides, override_texts
from imagetok.errors import ConfigError
from imagetok.named_configs import NamedConfig, configs, find_config
from imagetok.suggestions import did_you_mean, shown
from imagetok.training.run_folder import CONFIG
from imagetok.training.schedules import given_tree

ConfigInput = Path | str | Section | Mapping[str, Any]
"""A YAML file, the name of a config, a mapping of the same form, a `TokenizerRun` or a
`PriorRun`."""
RunKind = Literal["tokenizer", "prior"]
KINDS: tuple[RunKind, ...] = ("tokenizer", "prior")


class ConfigSource(NamedTuple):
    """A config that was read, but not validated yet."""

    tree: dict[str, Any]
    """The config as plain data, with overrides applied."""
    where: str
    """File or name of the config, for messages."""
    named: NamedConfig | None
    """The named config or file; None for a mapping or typed config."""


def with_allowance(overrides: Overrides, max_skip: int | str | None) -> list[str]:
    """Return overrides as texts, with that of the allowance if one is given."""
    allowance = [] if max_skip is None else [f"max_skip={max_skip}"]
    return [*override_texts(overrides), *allowance]


def open_config(config: ConfigInput, overrides: Overrides = ()) -> ConfigSource:
    """Read a config and apply overrides.

    Raises ConfigError for an unknown name, a missing file, invalid YAML, or another type.
    """
    if isinstance(config, Path | str):
        named = find_config(config)
        return ConfigSource(apply_overrides(named.tree, overrides), named.where, named)
    if isinstance(config, Section):
        return ConfigSource(
            apply_overrides(given_tree(config), overrides), type(config).__name__, None
        )
    if isinstance(config, Mapping):
        return ConfigSource(apply_overrides(dict(config), overrides), "config", None)
    raise ConfigError(
        f"config: expected a path, a mapping or a typed config, found {type(config).__qualname__}"
    )


def kind_of(config: ConfigInput, overrides: Overrides = ()) -> RunKind:
    """Return what a config trains, "tokenizer" or "prior"; ConfigError for any other kind."""
    return _kind(open_config(config, overrides))


def _kind(source: ConfigSource) -> RunKind:
    kind = source.tree.get("kind")
    for known in KINDS:
        if kind == known:
            return known
    hint = did_you_mean(kind, KINDS)
    raise ConfigError(
        f"{source.where}: kind: expected 'tokenizer' or 'prior', found {shown(kind)}{hint}"
    )


def check_kind(source: ConfigSource, expected: RunKind) -> None:
    """Raise ConfigError for a config of another kind, with the function that trains it."""
    kind = _kind(source)
    if kind != expected:
        function = {"tokenizer": "imagetok.train", "prior": "prior.train"}[kind]
        raise ConfigError(
            f"{source.where}: kind: expected {expected!r}, found {kind!r}; train it with {function}"
        )


def choose_run_folder(
    source: ConfigSource, out: Path | str | None, *, resume: bool = False
) -> Path:
    """Return the run folder: `out`, or by default `runs/` and the config's name with - for /.

    Older versions used only the last two parts of the name; with `resume` such a folder is used.
    Raises ConfigError without `out` for a config that has no name.

    >>> choose_run_folder(open_config("configs/digits/edvae.yaml"), None)
    PosixPath('runs/digits-edvae')
    """
    if out is not None:
        return Path(out)
    if source.named is None:
        raise ConfigError(
            "out: expected a run folder, found none; only a config file or a named config has a "
            "default one"
        )
    older = Path("runs", "-".join(source.named.name.split("/")[-2:]))
    is_older = resume and older.is_dir() and not source.named.run_folder.is_dir()
    return older if is_older else source.named.run_folder


def config_of_run(run: Path) -> ConfigSource | None:
    """Return the config that the run in a folder has, or will have by the default run folders.

    That is the folder's config.yaml, a file NAME.yaml here for a folder NAME, or the named config
    whose default folder it is; None if there is none of them.
    """
    for file in (run / CONFIG, Path(f"{run.name}.yaml")):
        if file.is_file():
            return open_config(file)
    return next((open_config(one.name) for one in configs() if one.run_folder == run), None)
