"""`imagetok info`."""

import json

import click

from cli.options import say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def info(as_json: bool) -> None:
    """Show information for a bug report: versions, devices, precision, threads, caches, folders.

    No secrets are shown: for tokens and proxies only whether they are set, URLs without user and
    query, and the home folder as `~`. The network is not used.

    Example: imagetok info

    Example: imagetok info --json
    """
    import imagetok

    found = imagetok.info()
    say(json.dumps(found.shareable(), indent=2) if as_json else str(found))
