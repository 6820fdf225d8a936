"""`imagetok merge`, `imagetok export` and `imagetok import`: code datasets in and out."""

from pathlib import Path
from typing import Literal

import click

from cli.options import say, show_usage, tokenizer_option
from cli.parameters import OneOf


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the merged dataset."
)
def merge(shards: tuple[Path, ...], out: Path) -> None:
    """Join code datasets of one tokenizer, in the order given; running it again continues.

    Shards are checked and hard-linked, or copied to another disk. Source indices count through
    all sources, as if these had been encoded one after the other.

    Example: imagetok merge codes/photos codes/paintings --out codes/all
    """
    import imagetok

    report = imagetok.merge(shards, out)
    say(f"{out}: {report.written} images in {report.num_shards} shard(s)")
    say(f"inputs {report.inputs} == written {report.written} + skipped {report.skipped}")


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, type=OneOf(["parquet", "npy"]), help="The format.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="The parquet file, or the folder of .npy files.",
)
def export(shards: Path, form: Literal["parquet", "npy"], out: Path) -> None:
    """Write a code dataset as one parquet file, or as a folder of .npy files.

    Both hold codes, labels, source indices and the tokenizer's fingerprint; `imagetok import`
    makes the same code dataset of them again.

    Example: imagetok export runs/digits-edvae/codes/train --to parquet --out digits.parquet
    """
    import imagetok

    say(f"{out}: {imagetok.export(shards, out, to=form).num_images} images")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@tokenizer_option()
@click.option(
    "--shards", required=True, type=click.Path(path_type=Path), help="Folder of the code dataset."
)
def import_(file: Path, tokenizer: str, shards: Path) -> None:
    """Make a code dataset of codes in a parquet file or .npy files, bound to a tokenizer.

    FILE is what `imagetok export` wrote, or others' codes: a parquet file with columns codes
    (lists; codes0, codes1, ... of several levels) and label; one .npy of shape (N, h, w); or a
    folder of codes.npy and labels.npy.

    Example: imagetok import digits.parquet --tokenizer runs/digits-edvae/tokenizer
    --shards codes/digits
    """
    import imagetok

    report = imagetok.import_codes(file, tokenizer, shards)
    show_usage(report.usage)
    say(f"{shards}: {report.written} images in {report.num_shards} shard(s)")
