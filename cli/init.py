"""`imagetok init`."""

from pathlib import Path

import click

from cli.options import device_option, say
from cli.parameters import OneOf


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Config to write [FOLDER.yaml]; the prior's is written beside it.",
)
@click.option(
    "--method",
    type=OneOf(["vqvae-ema", "edvae", "dvae"]),
    default="vqvae-ema",
    show_default=True,
    help="Method of the tokenizer.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Shorter side of the images: 16, 32, 64, 128 or 256 [the largest that nearly all "
    "pictures have, up to 64].",
)
@click.option(
    "--holdout",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the pictures to hold out, unless subfolders are splits.",
)
@device_option()
def init(
    folder: Path,
    out: Path | None,
    method: str,
    size: int | None,
    holdout: float,
    device: str | None,
) -> None:
    """Look through FOLDER, your pictures, and write configs that suit them.

    Shows counts, sizes, classes, splits, and damaged, equal and small files. Then writes the config
    of a tokenizer and of a prior, and prints the time that training each will take on this machine
    and the commands that lead to new pictures. Existing files are never replaced.

    Example: imagetok init photos
    """
    import prior

    start = prior.init(folder, out=out, method=method, size=size, holdout=holdout, device=device)
    say(str(start))
    say(f"written: {start.config} and {start.prior_config}")
    say("next:")
    for command in start.commands:
        say(f"  {command}")
