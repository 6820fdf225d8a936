"""`imagetok merge`, `imagetok export` and `imagetok import`."""

from pathlib import Path
from typing import Literal

import click

from cli.options import say, show_usage, tokenizer_option
from cli.parameters import OneOf
from imagetok.suggestions import counted


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the merged dataset."
)
def merge(shards: tuple[Path, ...], out: Path) -> None:
    """Join code datasets of one tokenizer, in the order given.

    Shards are checked, then hard-linked, or copied if --out is on another disk. Source indices run
    through all datasets, as if these had been encoded one after the other. Run it again to
    continue after an interruption.

    Example: imagetok merge codes/photos codes/paintings --out codes/all
    """
    import imagetok

    report = imagetok.merge(shards, out)
    say(f"{out}: {counted(report.written, 'image')} in {counted(report.num_shards, 'shard')}")
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

    Both hold codes, labels, source indices and the tokenizer's fingerprint. `imagetok import`
    recreates the same code dataset from them.

    Example: imagetok export runs/digits-edvae/codes/train --to parquet --out digits.parquet
    """
    import imagetok

    say(f"{out}: {counted(imagetok.export(shards, out, to=form).num_images, 'image')}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@tokenizer_option()
@click.option(
    "--shards", required=True, type=click.Path(path_type=Path), help="Folder of the code dataset."
)
def import_(file: Path, tokenizer: str, shards: Path) -> None:
    """Create a code dataset of a tokenizer from codes in a parquet file or .npy files.

    FILE is the output of `imagetok export`, or codes from another program: a parquet file with
    the columns codes (lists; codes0, codes1, ... for several levels) and label; one .npy file of
    shape (N, h, w); or a folder with codes.npy and labels.npy.

    Example: imagetok import digits.parquet --tokenizer runs/digits-edvae/tokenizer
    --shards codes/digits
    """
    import imagetok

    report = imagetok.import_codes(file, tokenizer, shards)
    show_usage(report.usage)
    say(f"{shards}: {counted(report.written, 'image')} in {counted(report.num_shards, 'shard')}")
