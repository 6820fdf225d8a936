"""The registry of custom parts: their config sections and builders, by part and name."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, overload

from imagetok.config import Section
from imagetok.errors import ConfigError
from imagetok.plugins import loading
from imagetok.plugins.loading import (
    Origin,
    blamed,
    current_origin,
    installed_plugins,
    load_installed,
)
from imagetok.suggestions import did_you_mean, shown

Part = Literal["quantizer", "network", "data", "prior", "features"]
B = TypeVar("B", bound=Callable[..., object])
NAME = r"[a-z0-9][a-z0-9_-]{0,99}"
_WORDS = {"data": "data source", "features": "feature network"}
FEATURE_NETWORKS = (
    "inception", "vgg16", "cifar-resnet", "torchvision:MODEL", "python:MODULE:FUNCTION",
)  # fmt: skip
"""The feature networks that imagetok has: what `--features` begins with."""


class Registration(NamedTuple):
    """A registered custom part."""

    part: Part
    name: str
    """The `kind` or `source` that selects it, or its name for `--features`."""
    config: type["OwnSection"] | None
    """Class of its config section; None for a feature network."""
    build: Callable[..., object]
    """Class or function that builds it; see `register`."""
    qualified_name: str
    """`module:name` of the section, or of what builds a feature network."""
    loaded_by: Origin | None
    """The plugin that registered it; None if a program called `register` itself."""

    @property
    def origin(self) -> Origin:
        """The package with its version, or the file, that provides it."""
        loaded = self.loaded_by
        if loaded is not None and (loaded.package or loaded.plugin.endswith(".py")):
            return loaded._replace(plugin=Path(loaded.plugin).name)
        module = self.qualified_name.partition(":")[0]
        owners = packages_distributions().get(module.partition(".")[0])
        if owners:
            has_entry = any(plugin.package == owners[0] for plugin in installed_plugins())
            return Origin(owners[0], version(owners[0]), "" if has_entry else module)
        if loaded is not None:
            return loaded
        return Origin(plugin=Path(getattr(sys.modules.get(module), "__file__", None) or "").name)


class OwnSection(Section, ABC):
    """Base class of the config sections of custom parts.

    Derive from that of the part: `imagetok.quantizers.QuantizerSection`,
    `imagetok.networks.NetworkSection`, `imagetok.data.DataSection` or `prior.config.PriorSection`.
    """

    @classmethod
    @abstractmethod
    def own_part(cls) -> "OwnPart":
        """Return the part that its sections describe."""

    @classmethod
    def alternatives(cls) -> Sequence[type[Section]]:
        """Return the registered sections for the base of a part, else the section itself."""
        found = [r.config for r in registered(cls.own_part().name) if r.config is not None]
        return found if cls in OwnSection.__subclasses__() else [cls]


class OwnPart(NamedTuple):
    """The properties that all sections of a part share."""

    name: Part
    tag: Literal["kind", "source"]
    """The key that chooses one."""
    needs: tuple[str, ...]
    """Attributes that a section must have beside its keys."""
    built_in: tuple[str, ...]
    """Names that are taken."""


@overload
def register(what: type[OwnSection] | str) -> Callable[[B], B]: ...
@overload
def register(what: type[OwnSection] | str, build: B) -> B: ...
def register(what: type[OwnSection] | str, build: B | None = None) -> Callable[[B], B] | B:
    """Register a custom quantizer, network, data source, prior or feature network.

    >>> class SoftVQConfig(QuantizerSection):
    ...     kind: Literal["soft-vq"] = "soft-vq"
    ...     num_codes: CodebookSize = 512
    ...     losses: ClassVar[tuple[str, ...]] = ("commitment",)
    >>> @imagetok.register(SoftVQConfig)
    ... class SoftVQ(Quantizer):
    ...     def __init__(self, config: SoftVQConfig): ...

    From then on `tokenizer.quantizer={kind: soft-vq}` is a valid config. Put the code into a file
    or package, so that other processes can load it too (`imagetok.load_plugin`).

    what: the class of the config section, whose base class determines the part; for a feature
    network, its name for `--features`. build: a class or function that is called with
    - quantizer (`QuantizerSection`): the section; makes a `Quantizer`;
    - network (`NetworkSection`): the section and a `NetworkSpec`; makes (encoder, decoder);
    - data source (`DataSection`): the section, the split and an `ImageContract`; makes an
      `ImageDataset`;
    - prior (`PriorSection`): the `PriorConfig`, with the section as its `model`; makes a `Prior`;
    - feature network: nothing, or for `NAME=FILE` a Path; makes a torch module that maps
      (B, 3, H, W) in [0, 1] to features (B, F).

    Without `build` it is a decorator. A class or function of the same qualified name replaces the
    one before (a notebook's cell that is run again). Raises ConfigError for a name that is taken
    or cannot be, a section of the wrong base, and one that lacks an attribute.
    """
    if build is None:
        return lambda given: register(what, given)
    if not callable(build):
        raise ConfigError(
            f"register: expected a class or function that builds it, found {shown(build)}"
        )
    part, name, config = _named(what)
    owner = build if config is None else config
    qualified = f"{owner.__module__}:{getattr(owner, '__qualname__', type(owner).__qualname__)}"
    held = loading.registrations.get((part, name))
    if held is not None and held.qualified_name != qualified:
        raise ConfigError(
            f"register: the {in_words(part)} {name!r} is taken by {held.qualified_name}; choose "
            f"another name for {qualified}"
        )
    loading.registrations[part, name] = Registration(
        part, name, config, build, qualified, current_origin()
    )
    return build


def registered(part: Part | None = None) -> list[Registration]:
    """Return the registrations of one part, or of all, without loading anything."""
    return [r for r in loading.registrations.values() if part in (None, r.part)]


def blamed_plugin(error: BaseException) -> str:
    """Return the module of a registered part whose code raised an error; empty for other errors."""
    return blamed(error, {r.qualified_name.partition(":")[0] for r in registered()})


def find(part: Part, name: str) -> Registration | None:
    """Return a registered part; loads the plugins of installed packages if needed."""
    if (part, name) not in loading.registrations:
        load_installed()
    return loading.registrations.get((part, name))


def unknown(part: Part, name: object, built_in: Sequence[str]) -> str:
    """Return the message for a name that neither imagetok nor a plugin has."""
    known = [*built_in, *(r.name for r in registered(part))]
    listed = ", ".join(map(repr, known))
    return f"expected one of {listed}; found {shown(name)}{hint_for(name, known)}"


def hint_for(name: object, known: Sequence[str]) -> str:
    """Return the hint of a refusal of `name`: the nearest known name, or how to load a plugin."""
    load = (
        "; load one of your own with --plugin FILE_OR_MODULE before the command, or install the "
        "package that registers it"
    )
    return did_you_mean(name, known) or load


def in_words(part: str) -> str:
    """Return the name of a part in messages."""
    return _WORDS.get(part, part)


def names_in(union: Any, tag: str) -> tuple[str, ...]:
    """Return the tags of a union's built-in sections, in order."""
    members = get_args(get_args(union)[0])
    return tuple(m.model_fields[tag].default for m in members if not issubclass(m, OwnSection))


def _named(what: object) -> tuple[Part, str, type[OwnSection] | None]:
    """Return part, name and section of a registration; raises ConfigError if it is invalid."""
    if isinstance(what, str):
        _check_name("features", what, [n.partition(":")[0] for n in FEATURE_NETWORKS])
        return "features", what, None
    bases = OwnSection.__subclasses__()
    if not (isinstance(what, type) and issubclass(what, OwnSection)) or what in bases:
        raise ConfigError(
            "register: expected a section class derived from imagetok.quantizers.QuantizerSection, "
            "imagetok.networks.NetworkSection, imagetok.data.DataSection or "
            "prior.config.PriorSection, or the name of a feature network; found "
            f"{getattr(what, '__qualname__', None) or shown(what)}"
        )
    if len(parts := [base.__qualname__ for base in bases if issubclass(what, base)]) > 1:
        raise ConfigError(
            f"register: {what.__qualname__}: expected one base class of sections, found "
            f"{' and '.join(parts)}; derive a section from each"
        )
    own = what.own_part()
    _check_tag(what, own.tag)
    name = str(what.model_fields[own.tag].default)
    _check_name(own.name, name, own.built_in)
    lacking = [n for n in own.needs if n not in what.model_fields and not hasattr(what, n)]
    if lacking:
        raise ConfigError(
            f"register: {what.__qualname__} ({in_words(own.name)} {name!r}) has no "
            f"{' and no '.join(map(repr, lacking))}; see the docstring of "
            f"{what.__mro__[-_depth(what)].__qualname__}"
        )
    _check_names(what)
    return own.name, name, what


def _depth(section: type[OwnSection]) -> int:
    """Return the position of the part's base class in the method resolution order, from its end."""
    return section.__mro__[::-1].index(OwnSection) + 2


def _check_tag(section: type[OwnSection], tag: str) -> None:
    field = section.model_fields.get(tag)
    values = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
    if (
        field is None
        or len(values) != 1
        or not isinstance(values[0], str)
        or field.default != values[0]
    ):
        raise ConfigError(
            f"register: {section.__qualname__}: expected a key that names it, "
            f'`{tag}: Literal["my-name"] = "my-name"`'
        )


def _check_names(section: type[OwnSection]) -> None:
    """Raise ConfigError where the section's `losses` or `splits` is not a tuple of names."""
    for attribute, example in (("losses", "commitment"), ("splits", "train")):
        value = getattr(section, attribute, ())
        if isinstance(value, property):
            continue
        if not isinstance(value, tuple | list) or not all(isinstance(n, str) for n in value):
            raise ConfigError(
                f"register: {section.__qualname__}: expected `{attribute}` to be a tuple of names, "
                f'as in ("{example}",), found {shown(value)}'
            )


def _check_name(part: Part, name: str, built_in: Sequence[str]) -> None:
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"register: expected a name of small letters, digits, - and _, found {shown(name)}"
        )
    if name in built_in:
        raise ConfigError(
            f"register: {name!r} is a {in_words(part)} of imagetok; choose another name"
        )
