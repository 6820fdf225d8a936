"""`imagetok verify` and `imagetok inspect`."""

import json

import click


@click.command()
@click.argument("path")
@click.pass_context
def verify(ctx: click.Context, path: str) -> None:
    """Check every byte of a tokenizer, prior, run or code dataset; exit code 4 on damage.

    PATH may be a Hub id, user/name[@revision].

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
@click.argument("path")
def inspect(path: str) -> None:
    """Describe a tokenizer, prior, run or code dataset as JSON.

    PATH may be a Hub id, user/name[@revision]; its commit is the `origin`.

    Example: imagetok inspect runs/digits-edvae/tokenizer
    """
    from cli.folders import describe_path

    click.echo(json.dumps(describe_path(path), indent=2))
