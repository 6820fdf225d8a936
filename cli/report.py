"""`imagetok report`."""

from pathlib import Path

import click

from cli.options import device_option, say


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE.html",
    help="HTML file to write.",
)
@click.option(
    "--samples",
    "num_samples",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Samples drawn per class from a prior; 0: no samples and no completions.",
)
@device_option()
def report(runs: tuple[Path, ...], out: Path, num_samples: int, device: str | None) -> None:
    """Write a self-contained HTML report of one run, or of several side by side.

    RUN is a run folder of a tokenizer or prior, a folder written by `imagetok sample`, or a JSON
    file of `imagetok evaluate --out`. The report shows training curves, reconstructions, codes,
    encoder uncertainty, samples, completions and measures, as far as they are available. It is
    one file that opens offline.

    Example: imagetok report runs/digits-edvae runs/digits-gpt --out report.html
    """
    import prior

    made = prior.report(runs, out, num_samples=num_samples, device=device)
    say(", ".join(made.contents))
    say(f"open {made.path.resolve()} in a browser")
