"""`imagetok compare`."""

from pathlib import Path

import click

from cli.options import choose_device, device_option, say

MAY_DIFFER = ("tokenizer.network", "train.steps", "train.batch_size")
"""As in imagetok.comparison.plan, which is slow to import."""


@click.command()
@click.argument("configs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for it all.")
@click.option("--seeds", default="42,1773,1", show_default=True, help="Train each with these.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="In every config.")
@click.option(
    "--allow-different",
    multiple=True,
    type=click.Choice(MAY_DIFFER),
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
    type=click.Path(path_type=Path),
    metavar="CONFIG",
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
    configs: tuple[Path, ...],
    out: Path,
    seeds: str,
    overrides: tuple[str, ...],
    allow_different: tuple[str, ...],
    features: tuple[str, ...],
    prior: Path | None,
    samples: int | None,
    jobs: int | None,
    device: str | None,
) -> int:
    """Train tokenizers on the same network, data, budget and seeds, and compare them.

    Writes one table, one figure, one grid of reconstructions and a report. Run the same command
    again to go on after a stop, or to train what failed again.

    Example: imagetok compare configs/digits/edvae.yaml configs/digits/dvae.yaml --out runs/digits
    """
    from imagetok.comparison.from_configs import compare_configs, exit_code, parse_seeds, summary

    result, failures = compare_configs(
        configs,
        out,
        seeds=parse_seeds(seeds),
        overrides=overrides,
        allow_different=allow_different,
        jobs=jobs,
        device=choose_device(device),
        features=features,
        prior=prior,
        num_samples=samples,
    )
    for line in summary(result, failures, out):
        say(line)
    return exit_code(failures)
