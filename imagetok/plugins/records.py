"""What artifacts and runs record about custom parts: their providers, to name a missing one.

A record is read for messages alone; nothing is imported because of one.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import Field

from imagetok.config import Section, validate
from imagetok.errors import ConfigError, ImagetokError
from imagetok.plugins.files import PLUGIN_NAME
from imagetok.plugins.loading import failures, installed_plugins
from imagetok.plugins.registry import NAME, Part, find, in_words
from imagetok.plugins.sections import own_sections, registration_of

MAX_RECORDS = 20
_PACKAGE = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)?"
_VERSION = r"[A-Za-z0-9_.+!-]{0,64}"
_PLUGIN = rf"({PLUGIN_NAME})?"


def _is_empty(value: str) -> bool:
    return not value


def _whole(pattern: str) -> re.Pattern[str]:
    """Compile a pattern of a whole text for Python's `re`, whose words have no invisible marks."""
    return re.compile(rf"\A{pattern}\Z")


class PartRecord(Section):
    """A custom part that an artifact or run needs, and its provider."""

    part: Part
    name: str = Field(pattern=_whole(NAME))
    """The `kind` or `source` that selects it."""
    package: str = Field("", pattern=_whole(_PACKAGE), exclude_if=_is_empty)
    """Name of the distribution, as pip installs it; empty if there is none."""
    version: str = Field("", pattern=_whole(_VERSION), exclude_if=_is_empty)
    """Version of the package."""
    plugin: str = Field("", pattern=_whole(_PLUGIN), exclude_if=_is_empty)
    """Name of the file, or the module, to give to `--plugin`; empty for an entry point."""


class PartRecords(Section):
    """The custom parts of a config, as stored under `plugins` in an artifact's `config.json`."""

    plugins: tuple[PartRecord, ...] = Field((), max_length=MAX_RECORDS)


def records_of(config: object) -> list[dict[str, str]]:
    """Return the custom parts in a config as plain data, without repetition."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for section in own_sections(config):
        part = registration_of(section)
        package, number, plugin = part.origin
        record = PartRecord(
            part=part.part,
            name=part.name,
            package=_if_valid(package, _PACKAGE),
            version=_if_valid(number, _VERSION),
            plugin=_if_valid(plugin, _PLUGIN),
        )
        found[part.part, part.name] = record.model_dump(mode="json")
    return list(found.values())


def _if_valid(text: str | None, pattern: str) -> str:
    """Return what may be stored; empty for a program's file that no record may name."""
    return text if text and re.fullmatch(pattern, text) else ""


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
    plugin = shlex.quote(record.plugin)
    option = f"load it with --plugin {plugin} before the command (imagetok.load_plugin)"
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
            f"`pip install {shlex.quote(record.package)}`{more}"
        )
    if record.plugin:
        return f"{what} of the package {named}: {option}"
    return f"{what} of the package {named}; {installed} is installed and does not have it"
