"""Configs of runs as callers give them: a file, a name, a plain tree, or a typed config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from imagetok.config import Overrides, Section, apply_overrides
from imagetok.errors import ConfigError
from imagetok.named_configs import NamedConfig, find_config
from imagetok.suggestions import did_you_mean
from imagetok.training.schedules import given_tree

ConfigInput = Path | str | Section | Mapping[str, Any]
"""A YAML file, the name of a config, a tree as YAML would give it, or a `TokenizerRun` or
`PriorRun`."""
RunKind = Literal["tokenizer", "prior"]
KINDS: tuple[RunKind, ...] = ("tokenizer", "prior")


class ConfigSource(NamedTuple):
    """A config that is read, and not yet validated."""

    tree: dict[str, Any]
    where: str
    """What it is called in messages: its file or name."""
    named: NamedConfig | None
    """None of one that has no name."""


def open_config(config: ConfigInput, overrides: Overrides = ()) -> ConfigSource:
    """Read a config and put overrides in.

    Raises ConfigError for what is not there, no YAML, or no config.
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
    """What a config trains; ConfigError where it is neither a tokenizer nor a prior."""
    return _kind(open_config(config, overrides))


def _kind(given: ConfigSource) -> RunKind:
    kind = given.tree.get("kind")
    for known in KINDS:
        if kind == known:
            return known
    hint = did_you_mean(kind, KINDS)
    raise ConfigError(f"{given.where}: kind: expected 'tokenizer' or 'prior', found {kind!r}{hint}")


def check_kind(given: ConfigSource, expected: RunKind) -> None:
    """Raise ConfigError, which names the function to call, for a config of another kind."""
    kind = _kind(given)
    if kind != expected:
        function = {"tokenizer": "imagetok.train", "prior": "prior.train"}[kind]
        raise ConfigError(
            f"{given.where}: kind: expected {expected!r}, found {kind!r}; train it with {function}"
        )


def run_folder(given: ConfigSource, out: Path | str | None, *, resume: bool = False) -> Path:
    """The folder asked for, else `runs/` and the config's whole name, with - for /.

    A run that older versions began under the last two parts of the name goes on there.

    >>> run_folder(open_config("configs/digits/edvae.yaml"), None)
    PosixPath('runs/digits-edvae')
    """
    if out is not None:
        return Path(out)
    if given.named is None:
        raise ConfigError("out: give the run's folder; only a file or a name has one of its own")
    older = Path("runs", "-".join(given.named.name.split("/")[-2:]))
    goes_on = resume and older.is_dir() and not given.named.run_folder.is_dir()
    return older if goes_on else given.named.run_folder
