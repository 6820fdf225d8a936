"""`imagetok reconstruct`."""

from pathlib import Path

import click

from cli.options import device_option, say, size_option, tokenizer_option


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@tokenizer_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reconstruction.png"),
    show_default=True,
    help="PNG file to write.",
)
@size_option()
@device_option()
def reconstruct(
    images: tuple[Path, ...], tokenizer: str, out: Path, size: str | None, device: str | None
) -> None:
    """Write one picture with each image, as the tokenizer reads it, above its reconstruction.

    Example: imagetok reconstruct --tokenizer runs/cifar10-edvae-cpu/tokenizer photo.jpg
    """
    import imagetok

    shown = imagetok.reconstruct(tokenizer, images, size=size, out=out, device=device)
    for name, value in shown.rows().items():
        say(f"  {name}  {value}")
    say(f"{out}: originals above, reconstructions below")
