"""`imagetok push`."""

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make the repository a private one.")
@click.option("--revision", metavar="BRANCH", help="Branch, made if need be [main].")
@click.option("--message", metavar="TEXT", help="Of the commit.")
def push(folder: Path, repo: str, private: bool, revision: str | None, message: str | None) -> None:
    """Share a tokenizer or prior on the Hugging Face Hub, in one commit, after checking it.

    Makes the repository if need be. Log in once with `hf auth login`, or set HF_TOKEN.

    Example: imagetok push runs/digits-gpt/prior user/digits-gpt
    """
    from prior.inspection import push as push_folder

    pushed = push_folder(folder, repo, private=private, revision=revision, message=message)
    is_prior = pushed.kind == "prior"
    use = "sample --out samples --prior" if is_prior else "reconstruct IMAGE --tokenizer"
    click.echo(pushed.url)
    click.echo(f"commit: {pushed.commit}")
    click.echo(f"use it: imagetok {use} {pushed.origin}")
