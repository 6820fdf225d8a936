"""`imagetok uncertainty`."""

from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    say,
    show_columns,
)
from cli.parameters import DATA, PATH_OR_ID


@click.command()
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    required=True,
    type=PATH_OR_ID,
    help="Tokenizer folder, or Hub id; may be given several times.",
)
@data_option("What it was made for: cifar10:test.")
@click.option(
    "--shifted",
    multiple=True,
    type=DATA,
    help="Images from elsewhere, or `noise`; may be given several times.",
)
@click.option(
    "--limit", type=click.IntRange(min=2), help="Only the first images of each; default: all."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write uncertainty.json and report.html there.",
)
@device_option()
def uncertainty(
    tokenizers: tuple[str, ...],
    data: str,
    shifted: tuple[str, ...],
    limit: int | None,
    out: Path | None,
    device: str | None,
) -> None:
    """Ask whether a tokenizer's doubt tells where it errs, and which images are foreign to it.

    Doubt is a Dirichlet's K / S, the entropy of code probabilities, minus the largest logit, or
    minus the margin to the second nearest code. Compared with the error by rank correlation over
    code positions and over images; of --shifted images by the AUROC of the images' mean doubt.

    Example: imagetok uncertainty --tokenizer runs/edvae/tokenizer --data digits:test
    --shifted noise
    """
    import imagetok

    found = imagetok.uncertainty(
        tokenizers, data, shifted=shifted, limit=limit, out=out, device=device
    )
    for study in found.studies:
        say(study.title())
        show_columns(study.table())
    if out is not None:
        say(f"{out / 'report.html'}")
