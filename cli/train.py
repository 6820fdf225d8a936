"""`imagetok train`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import device_option, say, show_table

if TYPE_CHECKING:
    from imagetok.named_configs import NamedConfig


@click.command()
@click.argument("config")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--resume", is_flag=True, help="Go on in a run folder; starts fresh if empty.")
@click.option("--init-from", metavar="PATH|ID", help="Start from these weights (fine-tune).")
@device_option()
def train(
    config: str,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    init_from: str | None,
    device: str | None,
) -> None:
    """Train the tokenizer or prior that CONFIG describes.

    CONFIG: a YAML file, or a name that `imagetok configs` lists.

    Example: imagetok train digits/edvae --set train.steps=500 --out runs/try

    Several processes: accelerate launch -m cli.main train CONFIG, or on CPUs
    ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 -m cli.main train CONFIG
    """
    from imagetok.named_configs import find_config

    found = find_config(config)
    say(found.taken())
    from cli.pipelines import train_from_config

    out = out or _run_folder(found, resume)
    kind, measures = train_from_config(
        config, list(overrides), out, resume=resume, init_from=init_from, device=device
    )
    say(f"finished: {out / kind}, on the held-out split:")
    show_table(measures)


def _run_folder(config: "NamedConfig", resume: bool) -> Path:
    """runs/NAME; a run that older versions began under the last two parts of it goes on there."""
    older = Path("runs", "-".join(config.name.split("/")[-2:]))
    goes_on = resume and older.is_dir() and not config.run_folder.is_dir()
    return older if goes_on else config.run_folder
