"""What a message of wrong usage adds: how the command is called."""

import inspect
from collections.abc import Sequence

import click

_NAMELESS = "arguments"


def remember_arguments(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Keep the arguments of a command, for `explain_usage`."""
    ctx.meta[_NAMELESS] = list(arguments)


def explain_usage(error: click.UsageError) -> click.UsageError:
    """Return an error that says which argument needs an option's name, or needs none.

    `imagetok diagnose RUN` lacks --tokenizer, and `imagetok export --shards DIR` has a name too
    many; what click says of either leaves the reader guessing. The command's example shows the way.
    """
    if error.ctx is None or error.ctx.command is None or isinstance(error.ctx.command, click.Group):
        return error
    hint = _hint(error, error.ctx)
    if hint is None:
        return error
    usage = "; ".join([hint, *_examples(error.ctx.command)])
    return click.UsageError(usage, error.ctx)


def _hint(error: click.UsageError, ctx: click.Context) -> str | None:
    if isinstance(error, click.NoSuchOption):
        name = error.option_name.lstrip("-")
        takers = [p for p in ctx.command.params if isinstance(p, click.Argument)]
        if any(name in (p.name, f"{p.name}s", (p.name or "").removesuffix("s")) for p in takers):
            return f"{error.option_name} is no option: its value is given without a name"
        return None
    lacking = error.param if isinstance(error, click.MissingParameter) else None
    if not isinstance(lacking, click.Option) and "unexpected extra argument" not in error.message:
        return None
    extra = _extra(ctx)
    if not extra:
        return None
    missing = f", and {lacking.opts[0]} is missing" if lacking else ""
    return f"expected an option's name before {' and '.join(map(repr, extra))}{missing}"


def _extra(ctx: click.Context) -> list[str]:
    """Return the arguments that neither belong to an option nor to a parameter without a name."""
    parser = ctx.command.make_parser(ctx)
    try:
        return parser.parse_args(list(ctx.meta.get(_NAMELESS, ())))[1]
    except click.UsageError:
        return []


def _examples(command: click.Command) -> list[str]:
    """Return the examples in a command's help, each in one line."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    lines = [" ".join(text.split()) for text in paragraphs if text.startswith("Example:")]
    examples = [line.removeprefix("Example: ") for line in lines]
    return [f"for example: {' or '.join(examples)}"] if examples else []
