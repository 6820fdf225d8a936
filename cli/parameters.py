"""Kinds of arguments: how a shell completes them, and what is said of a misspelt one.

Completion runs at every press of the key, so it imports nothing heavy.
"""

from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from imagetok.suggestions import did_you_mean


class OneOf(click.Choice):  # pyright: ignore[reportMissingTypeArgument]  # generic since click 8.4
    """One of some words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does, with the nearest word where it is none of them."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = did_you_mean(value, self.choices)
            self.fail(f"{error.message.rstrip('.')}{hint}" if hint else error.message, param, ctx)


class Place(click.ParamType):
    """A path that need not exist here: it may be a Hub id or a URL, too."""

    def __init__(self, name: str):
        """name: how help texts call it."""
        self.name = name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Files and folders."""
        return [CompletionItem(incomplete, type="file")]


class ConfigName(Place):
    """The path of a config file, or the name of a config."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names, and files where no name begins so.

        click's script for bash forgets the words that come before a request for files.
        """
        names = [name for name in _names(incomplete) if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


CONFIG = ConfigName("CONFIG")
DATA = Place("SPEC")
PATH_OR_ID = Place("PATH|ID")


def _names(start: str) -> Iterable[str]:
    """Names of config files; of experiments too, which take longer, where one is begun."""
    from imagetok.errors import ConfigError
    from imagetok.named_configs.folder import SHEETS, config_files

    try:
        if any(start and f"{group}/".startswith(start[: len(group) + 1]) for group in SHEETS):
            import imagetok

            return imagetok.configs().names
        return config_files()
    except ConfigError:  # none are installed, and a shell has no place for messages
        return ()
