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
    show_measures,
    show_skips,
)
from cli.parameters import CONFIG, PATH_OR_ID


@click.command()
@click.argument("config", type=CONFIG)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key."
)
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--resume", is_flag=True, help="Continue the run in --out, if there is one.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show images, classes, codes, parameters, time and memory; write nothing.",
)
@click.option("--init-from", type=PATH_OR_ID, help="Initialise from these weights (fine-tuning).")
@click.option(
    "--train",
    "trained",
    type=click.Choice(["all", "decoder"]),
    help="What learns; decoder: codes and priors of --init-from stay valid [the config's, all].",
)
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
    dry_run: bool,
    init_from: str | None,
    trained: str | None,
    max_skip: str | None,
    check: str | None,
    device: str | None,
) -> int:
    """Train the tokenizer or prior that CONFIG describes.

    CONFIG is a YAML file, or a name that `imagetok configs` lists.

    The first lines say what is trained on what, the last ones what comes next. --dry-run shows the
    same with time and memory, estimated from a few steps, and trains nothing. If images or codes
    are missing, it shows what is known without them, then what is missing, with the code of the
    refusal.

    Example: imagetok train digits/edvae --set train.steps=500 --out runs/try

    Several processes: accelerate launch -m imagetok train CONFIG, or on CPUs
    ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 -m imagetok train CONFIG
    """
    import imagetok
    import prior
    from imagetok.named_configs import find_config
    from imagetok.training.config_input import kind_of
    from imagetok.training.run_images import SkippedImages
    from imagetok.training.trained import TrainedTokenizer

    say(find_config(config).taken())
    images = given(max_skip=max_skip, check=check)
    kind = kind_of(config, overrides)
    if kind == "prior" and trained is not None:
        raise click.UsageError("--train: applies to tokenizers, and this is a prior; omit it")
    if trained is not None:
        overrides = (*overrides, f"trained={trained}")
    if kind == "prior" and images:
        name = next(iter(images)).replace("_", "-")
        raise click.UsageError(
            f"--{name}: applies to images, and a prior is trained on codes; omit it"
        )
    function = {"tokenizer": imagetok.train, "prior": prior.train}[kind]
    options: dict[str, Any] = {"set": overrides, "init_from": init_from, "device": device}
    if dry_run:
        estimate = function(config, dry_run=True, **options, **images)
        say(str(estimate))
        if estimate.refusal is not None:
            raise estimate.refusal
        return 0
    done = function(config, out=out, resume=resume, **options, **images)
    say(f"finished: {done.artifact}, on the held-out split:")
    show_measures(done.measures)
    skips = done.skipped if isinstance(done, TrainedTokenizer) else SkippedImages()
    code = show_skips((*skips.train, *skips.test))
    say(f"run folder: {done.folder}")
    for command in done.next_commands:
        say(f"next: {command}")
    return code
