"""`imagetok verify` and `imagetok inspect`."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.pass_context
def verify(ctx: click.Context, path: Path) -> None:
    """Check every byte of a tokenizer, prior, run or code dataset; exit code 4 on damage.

    Example: imagetok verify runs/digits-edvae/codes/train
    """
    from cli.folders import verify_path

    faults = verify_path(path)
    for fault in faults:
        click.echo(f"damaged: {fault}")
    if faults:
        ctx.exit(4)
    click.echo(f"{path}: good")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def inspect(path: Path) -> None:
    """Describe a tokenizer, prior, run or code dataset as JSON.

    Example: imagetok inspect runs/digits-edvae/tokenizer
    """
    from cli.folders import describe_path

    click.echo(json.dumps(describe_path(path), indent=2))
