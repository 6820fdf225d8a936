"""`imagetok demo`."""

import click

from cli.options import choose_device, device_option, say
from cli.parameters import PATH_OR_ID


@click.command()
@click.option("--tokenizer", type=PATH_OR_ID, help="Default: the one embedded in the prior.")
@click.option("--prior", type=PATH_OR_ID, help="Also draw and complete images with it.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at; 0.0.0.0 lets the whole network in.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="0: the first free one from 7860 on.",
)
@device_option()
def demo(
    tokenizer: str | None, prior: str | None, host: str, port: int, device: str | None
) -> None:
    """Serve a web page for this machine: look at codes, edit them, sample, complete.

    Drop an image: its reconstruction, its codes, where the encoder is unsure. Edit or swap codes
    and decode them. With --prior: new images by class, and completions. Needs the extra `demo`
    (gradio). Nothing is sent anywhere; of this machine's files the page sees what is uploaded.

    Example: imagetok demo --prior runs/digits-gpt/prior
    """
    if tokenizer is None and prior is None:
        raise click.UsageError("pass --tokenizer DIR, --prior DIR, or both")
    from cli.demo_page import build_page, open_session, serve

    page = build_page(open_session(tokenizer, prior, choose_device(device)))
    say("stop with Ctrl-C")
    serve(page, host, port, announce=say)
