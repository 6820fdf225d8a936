"""`imagetok compare`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cli.options import check_option, device_option, given, max_skip_option, say, show_skips
from cli.parameters import CONFIG, Integers, OneOf

if TYPE_CHECKING:
    from imagetok.comparison.from_configs import CompareResult

MAY_DIFFER = ("tokenizer.network", "train.steps", "train.batch_size")
"""A copy of the value in imagetok.comparison.plan, which is slow to import."""


@click.command()
@click.argument("configs", nargs=-1, required=True, type=CONFIG)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the comparison."
)
@click.option(
    "--seeds",
    type=Integers(0, "42,1773,1"),
    default="42,1773,1",
    show_default=True,
    help="Train each config with each seed.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key in every config."
)
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Train each config with each of these values; adds a column per value to the table.",
)
@click.option(
    "--allow-different",
    multiple=True,
    type=OneOf(MAY_DIFFER),
    help="Allow this setting to differ between configs; the table then shows it.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also measure the distance between images and reconstructions in the features of NETWORK, "
    "as in `imagetok evaluate`.",
)
@click.option(
    "--prior",
    type=CONFIG,
    help="Also train this prior on the codes of each tokenizer; its data, tokenizer and seed are "
    "set automatically.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Samples drawn from each prior to measure with --features [50,000, or the number of "
    "reference images if that is smaller].",
)
@click.option(
    "--reference",
    type=click.Choice(["train", "test"]),
    help="Split of the images that samples are compared with [train].",
)
@click.option(
    "--reference-count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compare samples with N images of that split, drawn with a fixed seed [all].",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs in parallel, one thread each [one per core, or one per GPU].",
)
@max_skip_option("Unreadable images of each split to allow, as in `imagetok train` [0].")
@check_option()
@device_option()
def compare(
    configs: tuple[str, ...],
    out: Path,
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    sweeps: tuple[str, ...],
    allow_different: tuple[str, ...],
    features: tuple[str, ...],
    prior: str | None,
    samples: int | None,
    reference: Literal["train", "test"] | None,
    reference_count: int | None,
    jobs: int | None,
    max_skip: str | None,
    check: str | None,
    device: str | None,
) -> int:
    """Train tokenizers with the same network, data, budget and seeds, and compare them.

    CONFIGS and the CONFIG of --prior are YAML files, or names that `imagetok configs` lists.

    Writes a table, a figure, a grid of reconstructions and a report. Run the same command again to
    continue after an interruption, or to repeat the trials that failed.

    Example: imagetok compare digits/edvae digits/dvae --out runs/digits

    Example: imagetok compare digits/edvae --sweep tokenizer.quantizer.num_codes=32,128 --out runs/K
    """
    from imagetok.named_configs import find_config

    for config in (*configs, *([prior] if prior else [])):
        say(find_config(config).taken())
    from prior.comparison import compare as compare_tokenizers

    result = compare_tokenizers(
        configs,
        out,
        prior=prior,
        num_samples=samples,
        reference=reference,
        reference_count=reference_count,
        seeds=seeds,
        set=overrides,
        sweep=sweeps,
        allow_different=allow_different,
        features=features,
        jobs=jobs,
        device=device,
        **given(max_skip=max_skip, check=check),
    )
    for line in _summary(result):
        say(line)
    show_skips(result.skipped)
    return result.exit_code


def _summary(result: "CompareResult") -> Iterator[str]:
    """Yield the lines of the table, one column per method, then one line per failed trial."""
    from imagetok.comparison.table import table_of

    if result.comparison is not None:
        header, rows = table_of(result.comparison)
        columns = [header, *rows]
        widths = [max(map(len, column)) for column in columns]
        for line in zip(*columns, strict=True):
            yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        yield (
            f"written: {result.folder}/comparison.md, .json, .png, reconstructions.png, report.html"
        )
    for trial, failure in result.failures.items():
        yield f"failed: {trial.method}, seed {trial.seed}: {failure.message}"
