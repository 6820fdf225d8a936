"""`imagetok reproduce`."""

from pathlib import Path

import click

from cli.options import device_option, say
from cli.parameters import FIGURE, Integers


@click.command()
@click.argument("name", type=FIGURE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the paper, which its tables and figures share [runs/papers-PAPER].",
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help="Restrict it to this data set or method. May be repeated.",
)
@click.option(
    "--seeds", type=Integers(0, "42,1773,1"), help="Train with these seeds [the paper's]."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of every tokenizer; the result says so.",
)
@click.option(
    "--prior-set",
    "prior_overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of every prior; the result says so.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Measure distances in this network instead of the paper's, as in `imagetok evaluate`; "
    "inception=FILE and vgg16=FILE are the paper's from a file.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples of each prior [50000, or the number of training images if that is smaller].",
)
@click.option("--download", is_flag=True, help="Download the data sets that can be.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs in parallel, one thread each [one per core, or one per GPU].",
)
@device_option()
def reproduce(
    name: str,
    out: Path | None,
    only: tuple[str, ...],
    seeds: tuple[int, ...] | None,
    overrides: tuple[str, ...],
    prior_overrides: tuple[str, ...],
    features: tuple[str, ...],
    samples: int | None,
    download: bool,
    jobs: int | None,
    device: str | None,
) -> int:
    """Make a table or figure of a paper, with its published numbers beside the ones found.

    `imagetok configs papers` lists the NAMEs; `imagetok configs NAME` shows what one trains. All
    tokenizers are trained in the folder `runs` of --out and used by every table and figure that is
    made there. Run the same command again to continue after an interruption.

    Example: imagetok reproduce papers/edvae/table-1 --only cifar10 --download

    Example: imagetok reproduce papers/edvae/fig-3 --seeds 42 --set train.steps=1000 --set
    train.evaluate_every=100 --out runs/try
    """
    import prior

    found = prior.reproduce(
        name,
        out,
        only=only,
        seeds=seeds or (),
        set=overrides,
        prior_set=prior_overrides,
        features=features,
        num_samples=samples,
        download=download,
        jobs=jobs,
        device=device,
    )
    say(str(found))
    say(f"written: {found.folder}/table.md, record.json, report.html and drawings")
    return found.exit_code
