"""`imagetok convert`."""

from pathlib import Path

import click

from cli.options import say
from cli.parameters import OneOf

FAMILIES = ["llamagen", "taming", "diffusers", "amused", "janus", "chameleon", "emu3"]


@click.command()
@click.argument("source")
@click.option(
    "--from", "family", required=True, type=OneOf(FAMILIES), help="Whose tokenizer it is."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="New folder for the converted tokenizer.",
)
@click.option(
    "--file",
    metavar="NAME",
    help="File of the weights inside the folder or repository [the family's usual names].",
)
@click.option(
    "--prefix",
    metavar="TEXT",
    help="Beginning of the names of the tokenizer's tensors, if the file holds several.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Side of the images it is for [that of the published weights]; other sizes work too.",
)
@click.option(
    "--license",
    metavar="TEXT",
    help="License of the weights, for the model card [as the source's card states it].",
)
def convert(
    source: str,
    family: str,
    out: Path,
    file: str | None,
    prefix: str | None,
    size: int | None,
    license: str | None,
) -> None:
    """Convert a tokenizer of another program, SOURCE, to one of imagetok.

    SOURCE is a file of weights, its folder, or a Hub id user/name[@revision]. Nothing in it is run:
    safetensors, or files of torch.save that hold tensors alone. The result is used as any other
    tokenizer.

    Example: imagetok convert vq_ds16_c2i.pt --from llamagen --out tokenizers/llamagen
    """
    import imagetok

    converted = imagetok.convert(
        source, family, out, file=file, prefix=prefix, size=size, license=license
    )
    say(repr(converted))
    if converted.can_decode:
        say(f"next: imagetok reconstruct --tokenizer {out} IMAGE --out before-after.png")
    else:
        say(f"next: imagetok encode --tokenizer {out} --data FOLDER --shards codes")
