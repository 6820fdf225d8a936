"""Sweeps: variants of a config with other values of a key."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagetok.config import Overrides, apply_overrides, override_texts, parse_yaml, validate
from imagetok.errors import ConfigError
from imagetok.training.config import TokenizerRun


def sweep_variants(
    name: str, tree: Mapping[str, Any], sweeps: Sequence[str]
) -> dict[str, TokenizerRun]:
    """Return the config with each value of each sweep, by names such as edvae-num_codes-128.

    tree: the config as plain data, overrides applied. sweeps: `a.b=V1,V2`, values in YAML.
    Raises ConfigError for a sweep of another form and for an invalid value.
    """
    parsed = [_parsed(text) for text in sweeps]
    found = {}
    for key, values in parsed:
        for value in values:
            changed = apply_overrides(dict(tree), {key: value})
            title = f"{name}-{_short(key, [other for other, _ in parsed])}-{_plain(value)}"
            if title in found:
                raise ConfigError(
                    f"--sweep {key}: expected different values, found {value!r} twice"
                )
            found[title] = validate(changed, TokenizerRun, f"{name} with {key}={value}")
    return found


def sweep_texts(sweeps: Overrides) -> list[str]:
    """Convert sweeps to texts `a.b=V1,V2`, as accepted by `--sweep`."""
    texts = override_texts(sweeps)
    if isinstance(sweeps, Mapping):  # values are lists, which YAML writes in brackets
        texts = [re.sub(r"=\[(.*)\]$", r"=\1", text, flags=re.DOTALL) for text in texts]
    return texts


def _parsed(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    key = key.strip()
    parsed = parse_yaml(f"[{values}]", f"--sweep {text}") if equals and values.strip() else []
    if not key or not parsed:
        raise ConfigError(f"--sweep {text}: expected KEY=V1,V2 as in train.batch_size=16,32")
    if key == "seed":
        raise ConfigError("--sweep seed=...: use --seeds, which every method is trained with")
    return key, parsed


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the shortest end of a key that no other key has."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in {*keys}) == 1:
            return end
    return key


def _plain(value: Any) -> str:
    """Convert a value to a part of a folder name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).strip("-") or "none"
