"""What artifacts and runs record about custom parts: their providers, to name a missing one.

A record is read for messages alone; nothing is imported because of one.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from pydantic import Field

from imagetok.config import Section, validate
from imagetok.errors import ConfigError, ImagetokError
from imagetok.plugins.loading import failures, installed_plugins
from imagetok.plugins.registry import NAME, Part, find, in_words
from imagetok.plugins.sections import own_sections, registration_of

_Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


def _is_empty(value: str) -> bool:
    return not value


class PartRecord(Section):
    """A custom part that an artifact or run needs, and its provider."""

    part: Part
    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    """The `kind` or `source` that selects it."""
    package: Annotated[str, Field(max_length=200, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")] = (
        Field("", exclude_if=_is_empty)
    )
    """Name of the distribution, as pip installs it; empty if there is none."""
    version: _Text = Field("", exclude_if=_is_empty)
    """Version of the package."""
    plugin: _Text = Field("", exclude_if=_is_empty)
    """Name of the file, or the module, to give to `--plugin`; empty for an entry point."""


class PartRecords(Section):
    """The custom parts of a config, as stored under `plugins` in an artifact's `config.json`."""

    plugins: tuple[PartRecord, ...] = ()


def records_of(config: object) -> list[dict[str, str]]:
    """Return the custom parts in a config as plain data, without repetition."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for section in own_sections(config):
        part = registration_of(section)
        package, number, plugin = part.origin
        record = PartRecord(
            part=part.part, name=part.name, package=package, version=number, plugin=plugin
        )
        found[part.part, part.name] = record.model_dump(mode="json")
    return list(found.values())


def needs_in_words(records: Sequence[Mapping[str, str]]) -> str:
    """Return the model card's line about the custom parts that a model needs."""
    needs = []
    for record in records:
        package = f"the package `{record['package']}`" if "package" in record else "a file"
        plugin = f" (`--plugin {record['plugin']}`)" if "plugin" in record else ""
        needs.append(f"the {in_words(record['part'])} `{record['name']}` of {package}{plugin}")
    return f"Needs, beside imagetok, {' and '.join(needs)}."


def read_records(stored: Any, where: str) -> tuple[PartRecord, ...]:
    """Return the records in stored data; raises ConfigError for invalid data."""
    return validate({"plugins": stored}, PartRecords, where).plugins


def check_available(
    records: Sequence[PartRecord], where: str, error: type[ImagetokError] = ConfigError
) -> None:
    """Raise `error` for a custom part that is not registered, with how to get it."""
    missing = [_missing(r) for r in records if find(r.part, r.name) is None]
    if missing:
        raise error(f"{where}: {'; '.join(missing)}")


def check_portable(config: object, what: str) -> None:
    """Raise ConfigError for a part that another process of imagetok could not load.

    what: the subject of the message, which starts such processes.
    """
    installed = {plugin.package for plugin in installed_plugins()}
    for section in own_sections(config):
        part = registration_of(section)
        if part.loaded_by is None and part.origin.package not in installed:
            raise ConfigError(
                f"{what}: its processes cannot know the {in_words(part.part)} {part.name!r}, which "
                f"this program registered by itself ({part.qualified_name}); put it into a file "
                'and load that: imagetok.load_plugin("FILE.py"), or --plugin FILE.py'
            )


def _missing(record: PartRecord) -> str:
    what = f"needs the {in_words(record.part)} {record.name!r}"
    option = f"load it with --plugin {record.plugin} before the command (imagetok.load_plugin)"
    if not record.package:
        if not record.plugin:
            return f"{what}, which a program registered by itself: call its imagetok.register first"
        return f"{what}, which comes from the file {record.plugin}: {option}"
    named = " ".join(filter(None, [record.package, record.version]))
    if record.package in failures():
        return f"{what} of the package {named}, which failed: {failures()[record.package]}"
    try:
        installed = version(record.package)
    except PackageNotFoundError:
        more = f", then {option}" if record.plugin else ""
        return (
            f"{what} of the package {named}, which is not installed; if you trust it, "
            f"`pip install {record.package}`{more}"
        )
    if record.plugin:
        return f"{what} of the package {named}: {option}"
    return f"{what} of the package {named}; {installed} is installed and does not have it"
