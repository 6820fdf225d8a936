"""`imagetok configs`."""

from pathlib import Path

import click

from cli.options import say
from cli.parameters import CONFIG


@click.command()
@click.argument("name", required=False, type=CONFIG)
@click.option(
    "--out",
    "--copy",
    "out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the config to a new file instead of printing it.",
)
def configs(name: str | None, out: Path | None) -> None:
    """List the configs that come with imagetok, or print one as complete YAML.

    A name can be used wherever a command takes a CONFIG. If NAME is a prefix of several names,
    those are listed. Each line describes a config and the results that its paper reports. Tables
    and figures of papers are listed too; `imagetok reproduce` makes them.

    Example: imagetok configs

    Example: imagetok configs papers/edvae/table-1

    Example: imagetok configs papers/edvae/cifar10

    Example: imagetok configs digits/edvae --out mine.yaml
    """
    import imagetok

    known = imagetok.configs()
    group = known if name is None else known.under(name)
    if name is not None and name in known.figures and out is None:
        say(str(known.figures[name]))
    elif name is not None and (name in known or not (len(group) or group.figures)):
        config = imagetok.configs(name)
        say(f"written: {config.save(out)}" if out else config.text.removesuffix("\n"))
    elif out is None:
        say(str(group))
    else:
        raise click.UsageError("--out: expected the NAME of one config to copy")
