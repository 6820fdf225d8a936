"""Validation of the config sections of custom parts, and building the parts from them."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

from imagetok.config import Section
from imagetok.errors import ConfigError, ImagetokError
from imagetok.plugins.loading import in_one_line
from imagetok.plugins.registry import OwnPart, OwnSection, Registration, find, in_words
from imagetok.plugins.registry import unknown as unknown_in_words

T = TypeVar("T")


class OrRegistered:
    """Lets a union of sections accept the registered ones too.

    >>> Config = Annotated[VQConfig | DVAEConfig | QuantizerSection, OrRegistered(QuantizerSection)]

    The union's own sections are chosen by their tag as ever; any other tag is looked up in the
    registry. The base of own sections stands for them in the static type.
    """

    def __init__(self, base: type[OwnSection]):
        self.base = base

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        own = self.base.own_part()
        built_in = tuple(member for member in get_args(source) if member is not self.base)
        inner = handler.generate_schema(Annotated[Union[built_in], Field(discriminator=own.tag)])  # noqa: UP007
        # Serialized by what it is, which for the union's own sections is the same.
        as_it_is = core_schema.wrap_serializer_function_ser_schema(
            lambda value, dump: dump(value), schema=core_schema.any_schema()
        )
        return core_schema.no_info_wrap_validator_function(
            partial(_validate, self.base), inner, serialization=as_it_is
        )


def _validate(base: type[OwnSection], value: Any, built_in: Any) -> Any:
    own = base.own_part()
    if isinstance(value, base):
        registration_of(value)
        return value
    name = value.get(own.tag) if isinstance(value, Mapping) else None
    if not isinstance(name, str) or name in own.built_in:
        return built_in(value)
    found = find(own.name, name)
    if found is None or found.config is None:
        problem = unknown_in_words(own.name, name, own.built_in)
        raise PydanticCustomError("unknown_part", "{problem}", {"problem": problem, "tag": own.tag})
    return _validator(own, name, found.config).validate_python(value)


@cache
def _validator(own: OwnPart, name: str, section: type[OwnSection]) -> SchemaValidator:
    """Return a validator of one section whose errors carry its tag in their location."""
    plain = core_schema.no_info_plain_validator_function(section.model_validate)
    return SchemaValidator(core_schema.tagged_union_schema({name: plain}, discriminator=own.tag))


def registration_of(section: OwnSection) -> Registration:
    """Return a section's registration; raises ConfigError if there is none."""
    own = section.own_part()
    name = str(getattr(section, own.tag))
    found = find(own.name, name)
    if found is None or not isinstance(section, found.config or ()):
        raise ConfigError(
            f"{in_words(own.name)} {name!r}: {type(section).__qualname__} is not registered, or "
            "another class is registered under this name; see imagetok.register"
        )
    return found


def build_registered(section: OwnSection, expected: type[T], *arguments: object) -> T:
    """Call a section's builder and return the part that it builds.

    Raises ConfigError where the builder fails or makes something else than is expected.
    """
    found = registration_of(section)
    return build_part(found, expected, *arguments)


def build_part(registration: Registration, expected: type[T], *arguments: object) -> T:
    """Call the builder of a registration, which may have no section."""
    what = described(registration)
    try:
        built = registration.build(*arguments)
    except (ImagetokError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin's code may raise anything, SystemExit too
        raise ConfigError(
            f"{what}: cannot be built: {in_one_line(error)}; --debug shows where"
        ) from error
    if not isinstance(built, expected):
        raise ConfigError(
            f"{what}: expected its builder to make an instance of {expected.__name__}, "
            f"found {type(built).__qualname__}"
        )
    return built


def described(registration: Registration) -> str:
    """Return a part, its name and where it is defined, for messages."""
    return f"{in_words(registration.part)} {registration.name!r} ({registration.qualified_name})"


def own_sections(tree: object) -> list[OwnSection]:
    """Return the sections of custom parts in a config, in order."""
    if isinstance(tree, OwnSection):
        return [tree]
    if isinstance(tree, Section):
        return [
            own for name in type(tree).model_fields for own in own_sections(getattr(tree, name))
        ]
    if isinstance(tree, Mapping):
        return [own for value in tree.values() for own in own_sections(value)]
    if isinstance(tree, list | tuple):
        return [own for value in tree for own in own_sections(value)]
    return []
