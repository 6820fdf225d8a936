"""`imagetok train`."""

from pathlib import Path
from typing import Any

import click

from cli.options import (
    check_option,
    device_option,
    given,
    max_skip_option,
    say,
    show_skips,
    show_table,
)
from cli.parameters import CONFIG, PATH_OR_ID


@click.command()
@click.argument("config", type=CONFIG)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--resume", is_flag=True, help="Continue the run in --out, if there is one.")
@click.option("--init-from", type=PATH_OR_ID, help="Initialise from these weights (fine-tuning).")
@max_skip_option(
    "Unreadable images of each split to allow; others take their place [the config's max_skip, 0]."
)
@check_option()
@device_option()
def train(
    config: str,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    init_from: str | None,
    max_skip: str | None,
    check: str | None,
    device: str | None,
) -> int:
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
    options: dict[str, Any] = {
        "out": out,
        "set": overrides,
        "resume": resume,
        "init_from": init_from,
        "device": device,
    }
    images = given(max_skip=max_skip, check=check)
    if kind_of(config, overrides) == "prior":
        if images:
            name = next(iter(images)).replace("_", "-")
            raise click.UsageError(
                f"--{name}: applies to images, and a prior is trained on codes; omit it"
            )
        done, skipped = prior.train(config, **options), ()
    else:
        done = imagetok.train(config, **options, **images)
        skipped = (*done.skipped.train, *done.skipped.test)
    say(f"finished: {done.artifact}, on the held-out split:")
    show_table(done.measures)
    return show_skips(skipped)
