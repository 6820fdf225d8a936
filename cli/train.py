"""`imagetok train`."""

from pathlib import Path

import click

from cli.options import device_option, say, show_table
from cli.parameters import CONFIG, PATH_OR_ID


@click.command()
@click.argument("config", type=CONFIG)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--resume", is_flag=True, help="Continue the run in --out, if there is one.")
@click.option("--init-from", type=PATH_OR_ID, help="Initialise from these weights (fine-tuning).")
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

    CONFIG is a YAML file, or a name that `imagetok configs` lists.

    Example: imagetok train digits/edvae --set train.steps=500 --out runs/try

    Several processes: accelerate launch -m imagetok train CONFIG, or on CPUs
    ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 -m imagetok train CONFIG
    """
    import imagetok
    import prior
    from imagetok.named_configs import find_config
    from imagetok.training.config_input import kind_of

    say(find_config(config).taken())
    kind = kind_of(config, overrides)
    done = {"tokenizer": imagetok.train, "prior": prior.train}[kind](
        config, out=out, set=overrides, resume=resume, init_from=init_from, device=device
    )
    say(f"finished: {done.artifact}, on the held-out split:")
    show_table(done.measures)
