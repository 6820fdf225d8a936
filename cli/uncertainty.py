"""`imagetok uncertainty`."""

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
)
from cli.parameters import DATA, PATH_OR_ID


@click.command()
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    required=True,
    type=PATH_OR_ID,
    help="Tokenizer folder, or Hub id user/name[@revision]; may be repeated.",
)
@data_option("In-distribution images, such as cifar10:test.")
@click.option(
    "--shifted",
    multiple=True,
    type=DATA,
    help="Out-of-distribution images, or `noise`; may be repeated.",
)
@click.option(
    "--limit", type=click.IntRange(min=2), help="Only the first N images of each; default: all."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write uncertainty.json and report.html there.",
)
@max_skip_option("Unreadable images of each dataset to leave out [0].")
@device_option()
def uncertainty(
    tokenizers: tuple[str, ...],
    data: str,
    shifted: tuple[str, ...],
    limit: int | None,
    out: Path | None,
    max_skip: str | None,
    device: str | None,
) -> int:
    """Test whether encoder uncertainty predicts reconstruction error and detects shifted data.

    Uncertainty is, depending on the quantizer, K / S of a Dirichlet, the entropy of the code
    probabilities, minus the largest logit, or minus the margin to the second nearest code. It is
    compared with the reconstruction error by Spearman's rank correlation, over code positions and
    over images. For --shifted images, the AUROC of the mean uncertainty per image is reported.

    Example: imagetok uncertainty --tokenizer runs/edvae/tokenizer --data digits:test
    --shifted noise
    """
    import imagetok

    found = imagetok.uncertainty(
        tokenizers,
        data,
        shifted=shifted,
        limit=limit,
        out=out,
        device=device,
        **given(max_skip=max_skip),
    )
    for study in found.studies:
        say(study.title())
        show_columns(study.table())
    if out is not None:
        say(f"{out / 'report.html'}")
    return show_skips(found.studies[0].skipped)
