"""`imagetok verify` and `imagetok inspect`."""

import json
from pathlib import Path
from typing import Any

import click

from cli.options import choose_device, device_option, say

_SHOWN = 20


@click.command()
@click.argument("path")
@click.option("--tokenizer", metavar="PATH|ID", help="That made the codes; for --reencode.")
@click.option("--data", metavar="SPEC", help="The images that the codes are of; for --reencode.")
@click.option(
    "--reencode",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also encode about N images of a code dataset again, and compare.",
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
    """Check every byte of a tokenizer, prior, run or code dataset; exit code 4 on damage.

    PATH may be a Hub id, user/name[@revision]. --reencode N encodes N images, spread over the
    source, in whole micro-batches as the plan says, and lists those whose codes differ.

    Example: imagetok verify runs/digits-edvae/codes/train --tokenizer runs/digits-edvae/tokenizer
    --data digits:train --reencode 256
    """
    from imagetok.inspection import verify_path

    if (reencode is None) != (tokenizer is None) or (reencode is None) != (data is None):
        raise click.UsageError("--reencode N, --tokenizer and --data are given together")
    faults = [f"damaged: {fault}" for fault in verify_path(path)]
    if reencode and not faults:
        faults = _reencode(path, str(tokenizer), str(data), reencode, device)
    for fault in faults:
        click.echo(fault)
    if faults:
        ctx.exit(4)
    click.echo(f"{path}: good")


def _reencode(path: str, tokenizer: str, data: str, count: int, device: str | None) -> list[str]:
    """What differs, one line an image."""
    from imagetok.codes.reader import open_codes
    from imagetok.codes.reencode import reencode
    from imagetok.data import open_images, parse_spec
    from imagetok.tokenizers import Tokenizer

    model = Tokenizer.from_pretrained(tokenizer).to(choose_device(device))
    found = reencode(open_codes(path), model, open_images(*parse_spec(data), model.image), count)
    lines = [f"differs: {d.path}: {d.codes} of {d.of} codes" for d in found.differences]
    codes = sum(d.codes for d in found.differences)
    say(f"encoded {found.images} images again: {len(lines)} differ, in {codes} codes")
    return lines


@click.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--tokenizer", metavar="PATH|ID", help="That made the codes; for --contact-sheet.")
@click.option(
    "--contact-sheet",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Decode 64 images of a code dataset, spread evenly, to one picture.",
)
@device_option()
def inspect(
    path: str,
    as_json: bool,
    tokenizer: str | None,
    contact_sheet: Path | None,
    device: str | None,
) -> None:
    """Describe a tokenizer, prior, run or code dataset.

    PATH may be a Hub id, user/name[@revision]; its commit is the `origin`.

    Example: imagetok inspect runs/digits-edvae/codes/train --tokenizer runs/digits-edvae/tokenizer
    --contact-sheet sheet.png
    """
    from imagetok.inspection import describe_path

    if (contact_sheet is None) != (tokenizer is None):
        raise click.UsageError("--contact-sheet and --tokenizer are given together")
    if contact_sheet is not None:  # first: it may refuse, and then nothing is printed
        _save_sheet(path, str(tokenizer), contact_sheet, device)
    description = describe_path(path)
    if as_json:
        click.echo(json.dumps(description, indent=2))
    else:
        for line in _lines(description):
            click.echo(line)


def _save_sheet(path: str, tokenizer: str, sheet: Path, device: str | None) -> None:
    from imagetok.codes.contents import save_contact_sheet
    from imagetok.codes.reader import open_codes
    from imagetok.tokenizers import Tokenizer

    model = Tokenizer.from_pretrained(tokenizer).to(choose_device(device))
    count = save_contact_sheet(open_codes(path), model, sheet)
    click.echo(f"{sheet}: {count} images decoded", err=True)


def _lines(tree: dict[str, Any], indent: str = "") -> list[str]:
    """Plain data as indented text: a name and a value a line, at most `_SHOWN` of a kind."""
    lines = []
    for name, value in list(tree.items())[:_SHOWN]:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): inner for i, inner in enumerate(value)}
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {_text(value)}")
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
    return "none" if value is None or value == {} else str(value)
