"""`imagetok uncertainty`."""

from pathlib import Path

import click

from cli.options import (
    check_out_folder,
    choose_device,
    data_option,
    device_option,
    say,
    show_columns,
)


@click.command()
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    required=True,
    metavar="PATH|ID",
    help="Tokenizer folder, or Hub id; may be given several times.",
)
@data_option("What it was made for: cifar10:test.")
@click.option(
    "--shifted",
    multiple=True,
    metavar="SPEC",
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
    from imagetok.analysis.uncertainty import check_asked, measure, write_page
    from imagetok.durable import write_json

    check_out_folder(out)
    check_asked(tokenizers, data)
    where = choose_device(device)
    studies = [measure(source, data, shifted, limit, where) for source in tokenizers]
    for study in studies:
        say(f"{study.tokenizer} on {study.data}; images: {study.told_counts()}")
        show_columns(study.rows())
    if out is not None:
        write_json(out / "uncertainty.json", {"tokenizers": [study.as_json() for study in studies]})
        write_page(out / "report.html", studies)
        say(f"{out / 'report.html'}")
