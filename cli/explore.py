"""`imagetok explore`."""

from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    say,
    show_columns,
    tokenizer_option,
)


@click.command()
@tokenizer_option()
@data_option()
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also distances from the images in its features, as in `imagetok evaluate`.",
)
@click.option(
    "--code",
    "codes",
    multiple=True,
    metavar="[LEVEL:]N",
    help="Also what this code looks like: pixels around its places. May be given several times.",
)
@click.option("--limit", type=click.IntRange(min=8), help="Only the first images; default: all.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Gets explore.json and report.html.",
)
@device_option()
def explore(
    tokenizer: str,
    data: str,
    features: tuple[str, ...],
    codes: tuple[str, ...],
    limit: int | None,
    out: Path,
    device: str | None,
) -> None:
    """Show what the space of codes is like: neighbours, what lies between images, labels.

    Every code replaced by one of its 1, 2, 4, ... nearest; what the encoder gives for two images
    mixed; what chosen codes look like; and t-SNE of pixels and of code vectors by label, with the
    accuracy of 5 nearest neighbours (needs scikit-learn).

    Example: imagetok explore --tokenizer runs/digits-edvae/tokenizer --data digits:test
    --out explored
    """
    import imagetok

    found = imagetok.explore(
        tokenizer,
        data,
        features=features,
        codes=[_parse_code(text) for text in codes],
        limit=limit,
        out=out,
        device=device,
    )
    say(found.title())
    show_columns(found.distances)
    say(f"labels told by the 5 nearest others: {found.accuracy_rows()}")
    say(f"{out / 'report.html'}")


def _parse_code(text: str) -> tuple[int, int]:
    """(level, code) of `[LEVEL:]N`."""
    level, _, code = text.rpartition(":")
    if not (code.isdecimal() and (level or "0").isdecimal()):
        raise click.UsageError(f"--code {text}: expected a number, or LEVEL:NUMBER")
    return int(level or 0), int(code)
