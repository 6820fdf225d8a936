"""`imagetok info`."""

import json

import click

from cli.options import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def info(as_json: bool) -> None:
    """Show what a bug report needs: versions, devices, precision, threads, caches, folders.

    Nothing secret is shown: of tokens and proxies only that they are set, of URLs neither user nor
    query, and the home folder is `~`. Asks no network.

    Example: imagetok info

    Example: imagetok info --json
    """
    import imagetok

    found = imagetok.info()
    say(json.dumps(found.shareable(), indent=2) if as_json else str(found))
