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
    help="Compare the images in this folder with --data, instead of measuring reconstructions.",
)
@click.option(
    "--reference-count",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --samples: compare with N images of --data, drawn with a fixed seed [all].",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also measure distances (such as FID) in the features of this network: inception, vgg16, "
    "torchvision:MODEL (each also with =FILE), cifar-resnet=FILE or python:MODULE:FUNCTION. "
    "May be repeated.",
)
@click.option(
    "--lpips",
    "perceptual",
    multiple=True,
    metavar="alex|vgg",
    help="Also measure LPIPS between images and reconstructions (each also with =FILE).",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also show the measures in this file, an earlier --out, as another column.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the measures as JSON.")
@device_option()
def evaluate(
    tokenizer: str,
    data: str,
    samples: Path | None,
    reference_count: int | None,
    features: tuple[str, ...],
    perceptual: tuple[str, ...],
    beside: tuple[Path, ...],
    out: Path | None,
    device: str | None,
) -> None:
    """Measure reconstructions and codebook utilisation on a data split, or samples of a prior.

    Images are resized and cropped as for the tokenizer. Samples are measured with --features only.

    Example: imagetok evaluate --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    import imagetok

    found = imagetok.evaluate(
        tokenizer,
        data,
        samples=samples,
        reference_count=reference_count,
        features=features,
        lpips=perceptual,
        beside=beside,
        out=out,
        device=device,
    )
    say(found.title())
    show_columns(found.table())
