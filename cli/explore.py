"""`imagetok explore`."""

from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    given,
    max_skip_option,
    say,
    show_columns,
    show_skips,
    tokenizer_option,
)
from cli.parameters import Integers


@click.command()
@tokenizer_option()
@data_option()
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also measure distances from the original images in the features of this network, as in "
    "`imagetok evaluate`.",
)
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="[LEVEL:]N",
    help="Also show image patches where this code occurs. May be repeated.",
)
@click.option(
    "--neighbours",
    type=Integers(1, "3,5,10"),
    metavar="N,N",
    help="Numbers of nearest codes to replace a code by [1,2,4,8,16].",
)
@click.option("--limit", type=click.IntRange(min=8), help="Only the first N images; default: all.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for explore.json and report.html.",
)
@max_skip_option("Unreadable images to leave out [0].")
@device_option()
def explore(
    tokenizer: str,
    data: str,
    features: tuple[str, ...],
    codes: tuple[str, ...],
    neighbours: tuple[int, ...] | None,
    limit: int | None,
    out: Path,
    max_skip: str | None,
    device: str | None,
) -> int:
    """Explore the latent space: nearest codes, interpolation, single codes and class structure.

    Shows images whose codes are replaced by one of their nearest codes;
    interpolations between the encoder outputs of two images; patches of chosen codes; and t-SNE
    maps of pixels and of code vectors by label, with the k-NN accuracy (k = 5; needs
    scikit-learn).

    Example: imagetok explore --tokenizer runs/digits-edvae/tokenizer --data digits:test
    --out explored
    """
    import imagetok

    found = imagetok.explore(
        tokenizer,
        data,
        features=features,
        codes=[_parse_code(text) for text in codes],
        neighbours=neighbours,
        limit=limit,
        out=out,
        device=device,
        **given(max_skip=max_skip),
    )
    say(found.title())
    show_columns(found.distances, named=True)
    say(f"k-NN accuracy (5 neighbours): {found.accuracy_rows()}")
    say(f"{out / 'report.html'}")
    return show_skips(found.skipped)


def _parse_code(text: str) -> tuple[int, int]:
    """Parse `[LEVEL:]N` to (level, code)."""
    level, _, code = text.rpartition(":")
    if not (code.isdecimal() and (level or "0").isdecimal()):
        raise click.UsageError(f"--code {text}: expected a number, or LEVEL:NUMBER")
    return int(level or 0), int(code)
