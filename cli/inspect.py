"""`imagetok verify` and `imagetok inspect`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.options import device_option, say
from cli.parameters import DATA, PATH_OR_ID
from imagetok.suggestions import counted, one_line

_SHOWN = 20


@click.command()
@click.argument("path", type=PATH_OR_ID)
@click.option("--tokenizer", type=PATH_OR_ID, help="Tokenizer of the codes; for --reencode.")
@click.option("--data", type=DATA, help="Images that were encoded; for --reencode.")
@click.option(
    "--reencode",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also encode about N images of a code dataset again, and compare the codes.",
)
@device_option()
@click.pass_context
def verify(
    ctx: click.Context,
    path: str,
    tokenizer: str | None,
    data: str | None,
    reencode: int | None,
    device: str | None,
) -> None:
    """Check every byte of a tokenizer, prior, run, comparison or code dataset.

    Exits with code 4 if damage is found. PATH may be a Hub id, user/name[@revision]. --reencode N
    encodes about N images again, evenly spread over the source, in whole micro-batches as they
    were encoded before, and lists the images whose codes differ.

    Example: imagetok verify runs/digits-edvae/codes/train --tokenizer runs/digits-edvae/tokenizer
    --data digits:train --reencode 256
    """
    from prior.inspection import verify as verify_folder

    if (reencode is None) != (tokenizer is None) or (reencode is None) != (data is None):
        raise click.UsageError("--reencode N, --tokenizer and --data have to be given together")
    found = verify_folder(path, tokenizer=tokenizer, data=data, reencode=reencode, device=device)
    if found.num_reencoded is not None:
        differ = f"{len(found.differences)} differ, in {counted(found.num_codes_differ, 'code')}"
        say(f"encoded {counted(found.num_reencoded, 'image')} again: {differ}")
    for fault in found.faults:
        click.echo(f"damaged: {fault}")
    for difference in found.differences:
        click.echo(f"differs: {difference}")
    if not found.is_good:
        ctx.exit(4)
    click.echo(f"{path}: good")
    if found.note:
        click.echo(found.note)


@click.command()
@click.argument("path", type=PATH_OR_ID)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--tokenizer", type=PATH_OR_ID, help="Tokenizer of the codes; for --contact-sheet.")
@click.option(
    "--contact-sheet",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Decode 64 evenly spread images of a code dataset to one picture.",
)
@device_option()
def inspect(
    path: str,
    as_json: bool,
    tokenizer: str | None,
    contact_sheet: Path | None,
    device: str | None,
) -> None:
    """Describe a tokenizer, prior, run, comparison or code dataset.

    PATH may be a Hub id, user/name[@revision]; `origin` then names the commit.

    Example: imagetok inspect runs/digits-edvae/codes/train --tokenizer runs/digits-edvae/tokenizer
    --contact-sheet sheet.png
    """
    from imagetok.inspection import inspect as describe_folder

    if (contact_sheet is None) != (tokenizer is None):
        raise click.UsageError("--contact-sheet and --tokenizer have to be given together")
    found = describe_folder(path, tokenizer=tokenizer, contact_sheet=contact_sheet, device=device)
    if contact_sheet is not None:
        click.echo(f"{contact_sheet}: {counted(found.num_decoded, 'image')} decoded", err=True)
    if as_json:
        click.echo(json.dumps(found.content, indent=2))
    else:
        for line in _lines(found.content):
            click.echo(line)


def _lines(tree: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return nested data as indented lines `name: value`, at most `_SHOWN` entries per mapping."""
    lines = []
    for name, value in list(tree.items())[:_SHOWN]:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): inner for i, inner in enumerate(value)}
        if isinstance(value, dict) and value:
            lines += [f"{indent}{one_line(str(name))}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{one_line(str(name))}: {_text(value)}")
    if len(tree) > _SHOWN:
        lines.append(f"{indent}... and {len(tree) - _SHOWN} more, see --json")
    return lines


def _text(value: Any, between: str = ", ") -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        shown = [_text(inner, " x ") for inner in value[:_SHOWN]]
        more = [f"... {len(value) - _SHOWN} more"] if len(value) > _SHOWN else []
        return between.join(shown + more) or "none"
    return "none" if value is None or value == {} else one_line(str(value))
