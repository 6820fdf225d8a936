"""Configuration: from YAML text and `--set a.b=v` overrides to one typed, validated tree.

Sections are defined beside what they configure; each is a frozen pydantic model that refuses
unknown keys. Configs are read as a safe subset of YAML 1.2: `1e-4` is a number, `no` is text, keys
are unique, and there are no anchors and no tags.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_serializer,
)

from imagetok.config_faults import describe_faults
from imagetok.errors import ConfigError
from imagetok.io.regular_files import read_regular
from imagetok.io.url_secrets import public_url
from imagetok.suggestions import counted, shown

MAX_BYTES = 1 << 20
PlaceOrUrl = Annotated[str, PlainSerializer(public_url)]
"""A path, or a URL whose user info and query are used, but neither shown nor stored."""

_WHOLE = "whole"


class Section(BaseModel):
    """Base of every config section: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    added: ClassVar[tuple[str, ...]] = ()
    """Keys that were added after the section was first released. At its default, which is what
    happened before the key existed, such a key is left out of every dump, because dumps are
    compared and hashed."""

    @classmethod
    def alternatives(cls) -> "Sequence[type[Section]]":
        """The sections that may stand where a type names this one."""
        return [cls]

    def whole(self) -> dict[str, Any]:
        """Return all keys as plain data, also added ones at their defaults, to be shown."""
        return self.model_dump(mode="json", context=_WHOLE)

    @model_serializer(mode="wrap")
    def _without_added_defaults(
        self, handler: Callable[[Any], dict[str, Any]], info: Any
    ) -> dict[str, Any]:
        tree = handler(self)
        if info.context == _WHOLE:  # a `SerializationInfo`, which has no check at run time
            return tree
        fields = type(self).model_fields
        unset = {name for name in self.added if getattr(self, name) == fields[name].default}
        return {key: value for key, value in tree.items() if key not in unset} if unset else tree


S = TypeVar("S", bound=Section)
Size = Annotated[int, Field(gt=0, le=2**24)]
"""Size of an axis of a tensor; the limit catches typing errors and attacks."""
Steps = Annotated[int, Field(gt=0, lt=2**53)]
"""A number of steps, limited to integers that every JSON reader represents exactly."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 core schema without anchors, tags or duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        for what, found in [
            ("anchors (&name) and aliases (*name)", getattr(event, "anchor", None)),
            ("tags (!name)", getattr(event, "tag", None)),
        ]:
            if found is not None:
                raise yaml.MarkedYAMLError(
                    problem=f"{what} are not supported", problem_mark=event.start_mark
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.MarkedYAMLError(
                    problem=f"expected a word as key, found {shown(key)}",
                    problem_mark=key_node.start_mark,
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"expected unique keys, found {shown(key)} twice",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writer that quotes every text that YAML 1.1 or the loader above would read differently.

    An object that occurs twice is written twice, because the loader reads no anchors.
    """

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        list("-+.0123456789"),
    ),
]:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document; raises ConfigError with `where`, line and column."""
    try:
        # A SafeLoader with fewer features: it builds plain data only.
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from None


def read_text(path: Path | str) -> str:
    """Read the text of a config file; ConfigError if it is missing, too large or not UTF-8."""
    path = Path(path)
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the config: {error.strerror}; "
            "`imagetok configs` lists the ones that come with imagetok"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text, found other bytes") from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read the mapping in a YAML file; ConfigError if it is missing, too large or no mapping."""
    path = Path(path)
    tree = parse_yaml(read_text(path), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(tree).__name__}")
    return tree


Overrides = Sequence[str] | Mapping[str, Any]
"""A list of texts `a.b=value` with values in YAML, or a dict of values by dotted key, such as
{"train.steps": 500}."""


def override_texts(overrides: Overrides) -> list[str]:
    """Convert overrides to `a.b=value` texts, as `--set` accepts them."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: expected a list or a dict, found the text {overrides!r}")
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]


def _as_yaml(value: Any) -> str:
    plain = str(value) if isinstance(value, Path) else value
    text = yaml.dump(plain, Dumper=_Dumper, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def apply_overrides(tree: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return a copy of the tree with each override applied.

    Values are YAML, so `x={kind: dvae}` sets a section. A number in a key is an index into an
    existing list: `a.0.b=value`. Raises ConfigError for a malformed override or a key below a value
    that is not a section.
    """
    result = _copied(tree)
    for override in override_texts(overrides):
        path, separator, text = override.partition("=")
        keys = path.strip().split(".")
        if not separator or not all(keys):
            raise ConfigError(f"--set {override}: expected section.key=value")
        section: Any = result
        for depth, key in enumerate(keys[:-1]):
            if isinstance(section, list):
                section = section[_place(section, keys, depth, override)]
            else:
                section = section.setdefault(key, {})
            if not isinstance(section, dict | list):
                raise ConfigError(
                    f"--set {override}: expected {'.'.join(keys[: depth + 1])} to be a section, "
                    f"found the value {shown(section)}; set the whole section"
                )
        value = parse_yaml(text, f"--set {override}")
        if isinstance(section, list):
            section[_place(section, keys, len(keys) - 1, override)] = value
        else:
            section[keys[-1]] = value
    return result


def _place(items: list[Any], keys: list[str], depth: int, override: str) -> int:
    """Return the list index that a key of an override names; ConfigError if out of range."""
    key, name = keys[depth], ".".join(keys[:depth])
    if key in map(str, range(len(items))):
        return int(key)
    count = f"a list of length {len(items)}"
    indices = f"an index from 0 to {len(items) - 1}" if items else "no index"
    raise ConfigError(
        f"--set {override}: {name} is {count}: expected {indices}, found {key!r}; "
        f"to set the whole list use {name}=[...]"
    )


def _copied(tree: Any) -> Any:
    match tree:
        case dict():
            return {key: _copied(value) for key, value in tree.items()}
        case list():
            return [_copied(value) for value in tree]
        case _:
            return tree


def load_config(path: Path | str, cls: type[S], overrides: Overrides = ()) -> S:
    """Read a config file, apply overrides, and validate it.

    path: a YAML file.
    cls: the type of the config, such as `TokenizerRun`.
    overrides: settings to change, as {"train.steps": 500} or ["train.steps=500"].
    Raises ConfigError with one line per fault, `file: a.b: what is wrong (found x)`, and for an
    unknown key the nearest known one.
    """
    return validate(apply_overrides(read_yaml(path), overrides), cls, str(path))


def validate(tree: Any, cls: type[S], where: str) -> S:
    """Build a section from plain data; raises ConfigError as `load_config` does."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        lines = (f"{where}: {line}" for line in describe_faults(error, cls))
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def dump_yaml(config: Section) -> str:
    """Write a config with all its defaults as YAML, which `load_config` reads to an equal tree."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def compact_yaml(tree: Mapping[str, Any]) -> str:
    """Write plain data as readable YAML: in its order, each innermost section on one line."""
    return yaml.dump(
        dict(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=118
    )


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ between two plain trees, with (old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = {}
        for key in [*old, *(k for k in new if k not in old)]:
            path = f"{prefix}.{key}" if prefix else str(key)
            found |= differences(old.get(key), new.get(key), path)
        return found
    return {} if old == new else {prefix: (old, new)}


def in_config(value: object, written: Callable[[object], str] = repr) -> str:
    """Return a value for a message as a config file has it; `written` writes numbers and text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else written(value)


def differences_shown(old: Section, new: Section, *, most: int = 5) -> str:
    """Return the keys whose values differ between two sections, with both values, as text."""
    changed = differences(old.whole(), new.whole())
    texts = [
        f"{key}: {in_config(a, shown)} there, {in_config(b, shown)} here"
        for key, (a, b) in changed.items()
    ]
    more = [f"and {counted(len(texts) - most, 'more key')}"] if len(texts) > most else []
    return "; ".join([*texts[:most], *more])


def value_at(tree: Any, key: str) -> Any:
    """Return the value of a dotted key in a plain tree; None if there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
