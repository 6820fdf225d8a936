"""`imagetok evaluate`."""

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
    "--samples",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compare the images of this folder with --data, instead of reconstructions.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also distances in the features of: inception, vgg16, torchvision:MODEL (each also with "
    "=FILE), cifar-resnet=FILE, python:MODULE:FUNCTION. May be given several times.",
)
@click.option(
    "--lpips",
    "perceptual",
    multiple=True,
    metavar="alex|vgg",
    help="Also how different images and their reconstructions look (each also with =FILE).",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show the measures of an earlier --out in a column of their own.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the measures as JSON.")
@device_option()
def evaluate(
    tokenizer: str,
    data: str,
    samples: Path | None,
    features: tuple[str, ...],
    perceptual: tuple[str, ...],
    beside: tuple[Path, ...],
    out: Path | None,
    device: str | None,
) -> None:
    """Measure reconstructions and codebook use over every image of a split, or drawn samples.

    Images are read as the tokenizer reads them. Samples are measured by features alone.

    Example: imagetok evaluate --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    import imagetok

    found = imagetok.evaluate(
        tokenizer,
        data,
        samples=samples,
        features=features,
        lpips=perceptual,
        beside=beside,
        out=out,
        device=device,
    )
    say(found.title())
    show_columns(found.table())
