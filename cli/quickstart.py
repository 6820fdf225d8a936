"""`imagetok quickstart`."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for all results; run again to continue there.",
)
def quickstart(out: Path) -> None:
    """Train a tokenizer and a prior on the included digits, draw new ones, and write a report.

    Takes a few minutes on a CPU and downloads nothing.

    Example: imagetok quickstart --out quickstart
    """
    from cli.options import show_table
    from cli.quickstart_pipeline import run_quickstart

    summary = run_quickstart(out)
    show_table(summary)
    click.echo(f"open {(out / 'report.html').resolve()} in a browser")
