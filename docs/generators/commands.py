"""The command reference: usage, description, examples and options of every command, as Markdown."""

import inspect
import re
from collections.abc import Iterator

import click

from cli.main import imagetok


def page() -> str:
    """A section for the program itself and one for each of its commands."""
    top = click.Context(imagetok, info_name="imagetok")
    lines = [*_section("imagetok", imagetok, top)]
    for name in imagetok.list_commands(top):
        command = imagetok.get_command(top, name)
        assert command is not None, name
        context = click.Context(command, info_name=name, parent=top)
        lines += _section(f"imagetok {name}", command, context)
    return "\n".join(lines)


def _section(title: str, command: click.Command, context: click.Context) -> Iterator[str]:
    anchor = title.removeprefix("imagetok ").strip()
    yield f"## `{title}` {{ #{anchor} data-toc-label='{anchor}' }}\n"
    yield from _description(command.help or "")
    pieces = command.collect_usage_pieces(context)
    yield f"```text title='Usage'\n{' '.join([title, *pieces])}\n```\n"
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    yield "| option | value | meaning |\n|---|---|---|"
    for option in options:
        yield _row(option, context) if not option.hidden else ""
    yield ""


def _description(text: str) -> Iterator[str]:
    """Paragraphs; those that begin with `Example:` become code."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text).replace("\b", "")):
        words = " ".join(paragraph.split())
        if words.startswith("Example: "):
            yield f"```sh\n{words.removeprefix('Example: ')}\n```\n"
        else:
            yield f"{_escaped(words)}\n"


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f"`{option.make_metavar(context)}`"
    notes = ["May be given several times."] if option.multiple else []
    # click's own words for defaults, ranges and required options.
    extra = option.get_help_extra(context)
    if "default" in extra:
        notes.append(f"Default: `{extra['default']}`.")
    if "range" in extra:
        notes.append(f"Range: `{extra['range']}`.")
    if "required" in extra:
        notes.append("Required.")
    meaning = " ".join([option.help or "", *notes]).strip()
    return f"| {names} | {value} | {_escaped(meaning)} |".replace("|ID", "\\|ID")


def _escaped(text: str) -> str:
    """Plain text for Markdown: what has a meaning there is escaped, except in code."""
    return re.sub(r"(`[^`]*`)|([|<>*_\[\]])", lambda m: m[1] or f"\\{m[2]}", text)
