"""`imagetok push`."""

from pathlib import Path

import click


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("repo", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Create the repository as a private one.")
@click.option("--revision", metavar="BRANCH", help="Branch, created if missing [main].")
@click.option("--message", metavar="TEXT", help="Commit message.")
def push(folder: Path, repo: str, private: bool, revision: str | None, message: str | None) -> None:
    """Check a tokenizer or prior and upload it to the Hugging Face Hub, in one commit.

    The repository is created if it does not exist. Log in once with `hf auth login`, or set
    HF_TOKEN.

    Example: imagetok push runs/digits-gpt/prior user/digits-gpt
    """
    from prior.inspection import push as push_folder

    pushed = push_folder(folder, repo, private=private, revision=revision, message=message)
    is_prior = pushed.kind == "prior"
    use = "sample --out samples --prior" if is_prior else "reconstruct IMAGE --tokenizer"
    click.echo(pushed.url)
    click.echo(f"commit: {pushed.commit}")
    click.echo(f"use it: imagetok {use} {pushed.origin}")
