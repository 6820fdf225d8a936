"""Types of arguments, with shell completion and suggestions for misspelt values.

Completion runs at every key press, so it imports nothing heavy.
"""

from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from imagetok.suggestions import did_you_mean


class OneOf(click.Choice):  # pyright: ignore[reportMissingTypeArgument]  # generic since click 8.4
    """A choice that suggests the nearest value for a misspelt one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as click does; add a suggestion to the error message."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = did_you_mean(value, self.choices)
            self.fail(f"{error.message.rstrip('.')}{hint}" if hint else error.message, param, ctx)


class Integers(click.ParamType):
    """Whole numbers separated by commas, such as 42,1773,1; converted to a tuple."""

    name = "integers"

    def __init__(self, minimum: int, example: str):
        self.minimum = minimum
        self.example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Split and convert; fail for anything that is no such list."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < self.minimum:
            self.fail(
                f"expected whole numbers >= {self.minimum} as in {self.example}, found {value}",
                param,
                ctx,
            )
        return numbers


class Place(click.ParamType):
    """A path, Hub id or URL, which does not have to exist on this machine."""

    def __init__(self, name: str):
        """name: its name in help texts."""
        self.name = name

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete files and folders."""
        return [CompletionItem(incomplete, type="file")]


class ConfigName(Place):
    """The path of a config file, or the name of an included config."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete names, and files where no name matches.

        click's script for bash discards the items before a request for files, so it comes first.
        """
        names = [name for name in _names(incomplete) if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file"), *map(CompletionItem, names)]


class FigureName(Place):
    """The name of a paper's table or figure."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete names."""
        from imagetok.errors import ConfigError

        try:
            import imagetok

            names = imagetok.configs().figures
        except ConfigError:  # no configs are installed
            names = {}
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


CONFIG = ConfigName("CONFIG")
FIGURE = FigureName("NAME")
DATA = Place("SPEC")
PATH_OR_ID = Place("PATH|ID")


def _names(start: str) -> Iterable[str]:
    """Return names of config files; experiments, which are slower, only if `start` names one."""
    from imagetok.errors import ConfigError
    from imagetok.named_configs.folder import SHEETS, config_files

    try:
        if any(start and f"{group}/".startswith(start[: len(group) + 1]) for group in SHEETS):
            import imagetok

            return imagetok.configs().names
        return config_files()
    except ConfigError:  # no configs are installed; completion cannot show messages
        return ()
