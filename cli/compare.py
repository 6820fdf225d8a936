"""`imagetok compare`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import device_option, say
from cli.parameters import CONFIG, OneOf

if TYPE_CHECKING:
    from imagetok.comparison.from_configs import CompareResult

MAY_DIFFER = ("tokenizer.network", "train.steps", "train.batch_size")
"""As in imagetok.comparison.plan, which is slow to import."""


@click.command()
@click.argument("configs", nargs=-1, required=True, type=CONFIG)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for it all.")
@click.option("--seeds", default="42,1773,1", show_default=True, help="Train each with these.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="In every config.")
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Each config also with each of these values: one more column a value.",
)
@click.option(
    "--allow-different",
    multiple=True,
    type=OneOf(MAY_DIFFER),
    help="Compare although these differ; the table then shows them.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also distances of reconstructions in its features, as in `imagetok evaluate`.",
)
@click.option(
    "--prior",
    type=CONFIG,
    help="Also train this prior on the codes of each; its data, tokenizer and seed are set.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images of each prior to measure by --features [as many as test images].",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs side by side, one thread each [one a core, or one a GPU].",
)
@device_option()
def compare(
    configs: tuple[str, ...],
    out: Path,
    seeds: str,
    overrides: tuple[str, ...],
    sweeps: tuple[str, ...],
    allow_different: tuple[str, ...],
    features: tuple[str, ...],
    prior: str | None,
    samples: int | None,
    jobs: int | None,
    device: str | None,
) -> int:
    """Train tokenizers on the same network, data, budget and seeds, and compare them.

    CONFIGS and the CONFIG of --prior: YAML files, or names that `imagetok configs` lists.

    Writes one table, one figure, one grid of reconstructions and a report. Run the same command
    again to go on after a stop, or to train what failed again.

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
        seeds=_parse_seeds(seeds),
        set=overrides,
        sweep=sweeps,
        allow_different=allow_different,
        features=features,
        jobs=jobs,
        device=device,
    )
    for line in _summary(result):
        say(line)
    return result.exit_code


def _parse_seeds(text: str) -> list[int]:
    """The seeds of `42,1773,1`."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise click.UsageError(f"--seeds {text}: expected whole numbers >= 0 as in 42,1773,1")
    return seeds


def _summary(result: "CompareResult") -> Iterator[str]:
    """The table, methods as columns, then what failed."""
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
