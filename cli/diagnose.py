"""`imagetok diagnose`."""

from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    given,
    max_skip_option,
    say,
    show_skips,
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
@max_skip_option("Unreadable images to leave out [0].")
@device_option()
def diagnose(
    tokenizer: str, data: str, out: Path | None, max_skip: str | None, device: str | None
) -> int:
    """Measure codebook utilisation, detect collapse, and suggest remedies.

    Every image of --data is encoded. If the tokenizer is in its run folder, the training log is
    read as well.

    Example: imagetok diagnose --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    import imagetok

    found = imagetok.diagnose(tokenizer, data, out=out, device=device, **given(max_skip=max_skip))
    for level, verdict in enumerate(found.verdicts):
        say(found.title_of(level))
        show_table(found.rows_of(level))
        say(f"verdict: {verdict.state}")
        for sentence in verdict.sentences:
            say(f"  {sentence}")
    if out is not None:
        say(f"{out / 'report.html'}")
    return show_skips(found.skipped)
