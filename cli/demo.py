"""`imagetok demo`."""

import click

from cli.options import choose_device, device_option, say
from cli.parameters import PATH_OR_ID


@click.command()
@click.option("--tokenizer", type=PATH_OR_ID, help="Default: the one embedded in the prior.")
@click.option("--prior", type=PATH_OR_ID, help="Prior for sampling and completing images.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 accepts connections from the whole network.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port to listen on; 0: the first free port from 7860.",
)
@device_option()
def demo(
    tokenizer: str | None, prior: str | None, host: str, port: int, device: str | None
) -> None:
    """Serve a local web page to view and edit codes, to sample and to complete images.

    For an uploaded image the page shows the reconstruction, the codes and a map of the encoder's
    uncertainty. Codes can be edited or swapped, and decoded again. With --prior it also draws new
    images by class and completes uploaded ones. Needs the extra `demo` (gradio). No data leaves
    this machine, and the page can read uploaded files only.

    Example: imagetok demo --prior runs/digits-gpt/prior
    """
    if tokenizer is None and prior is None:
        raise click.UsageError("pass --tokenizer DIR, --prior DIR, or both")
    from cli.demo_page import build_page, open_session, serve

    page = build_page(open_session(tokenizer, prior, choose_device(device)))
    say("stop with Ctrl-C")
    serve(page, host, port, announce=say)
