"""`imagetok diagnose`."""

from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    say,
    show_table,
    tokenizer_option,
)


@click.command()
@tokenizer_option()
@data_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write diagnosis.json and report.html there.",
)
@device_option()
def diagnose(tokenizer: str, data: str, out: Path | None, device: str | None) -> None:
    """Measure codebook utilisation, detect collapse, and suggest remedies.

    Every image of --data is encoded. If the tokenizer is in its run folder, the training log is
    read as well.

    Example: imagetok diagnose --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    import imagetok

    found = imagetok.diagnose(tokenizer, data, out=out, device=device)
    for level, verdict in enumerate(found.verdicts):
        say(found.title_of(level))
        show_table(found.rows_of(level))
        say(f"verdict: {verdict.state}")
        for sentence in verdict.sentences:
            say(f"  {sentence}")
    if out is not None:
        say(f"{out / 'report.html'}")
