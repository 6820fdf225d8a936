"""`imagetok sample` and `imagetok complete`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.options import device_option, say
from cli.parameters import PATH_OR_ID

_SAMPLING = (
    click.option(
        "--label", help="A class by number or name, several (0,3 or cat,dog), all, or none."
    ),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="Above 0."),
    click.option("--greedy", is_flag=True, help="Always the most likely code."),
    click.option("--top-k", type=int, help="Only the k most likely codes."),
    click.option("--top-p", type=float, help="Only the likeliest codes of this total probability."),
    click.option("--guidance", type=float, default=1.0, show_default=True, help="1 is off."),
    click.option("--seed", type=int, default=0, show_default=True),
    device_option(),
)


def _prior_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--prior`, `--tokenizer`."""
    tokenizer = click.option(
        "--tokenizer", type=PATH_OR_ID, help="Default: the one embedded in the prior."
    )
    help_text = "Prior folder, or Hub id user/name[@revision]."
    prior = click.option("--prior", required=True, type=PATH_OR_ID, help=help_text)
    return prior(tokenizer(command))


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How codes are drawn."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


@click.command()
@_prior_options
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for PNGs.")
@click.option("--shards", type=click.Path(path_type=Path), help="Or: folder of a code dataset.")
@click.option(
    "--samples-per-shard",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Images a shard (with --shards).",
)
@_sampling_options
def sample(
    prior: str,
    tokenizer: str | None,
    count: int,
    out: Path | None,
    shards: Path | None,
    samples_per_shard: int,
    label: str | None,
    device: str | None,
    **params: Any,
) -> None:
    """Draw new images; running it again continues where it stopped, with --out also with more.

    --out: PNG files, one grid, and samples.json with what made them. --shards: their codes only.
    Image j of a seed is always the same, however many are drawn and by how many processes.
    Without --label, the classes take turns.

    Example: imagetok sample --prior runs/digits-gpt/prior -n 20 --label 3 --out threes
    """
    if (out is None) == (shards is None):
        raise click.UsageError("pass either --out DIR, for images, or --shards DIR, for codes")
    from prior.generation import GRID, generate, generate_codes

    how = {"tokenizer": tokenizer, "label": _parse_label(label), "device": device, **params}
    if out is not None:
        drawn = generate(prior, count, out=out, **how)
        say(f"{count} images in {out} ({drawn.num_new} new); the first in {out / GRID}")
    elif shards is not None:
        made = generate_codes(prior, count, shards, samples_per_shard=samples_per_shard, **how)
        for level, use in made.rows().items():
            say(f"{level}: {use}")
        say(f"codes of {count} images in {shards}")


@click.command()
@_prior_options
@click.option(
    "--image",
    "images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="An image file; may be given several times.",
)
@click.option(
    "--keep-rows", type=int, required=True, help="Upper rows of codes to keep, of the coarsest map."
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Completions of each image.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for PNGs.")
@_sampling_options
def complete(
    prior: str,
    tokenizer: str | None,
    images: tuple[Path, ...],
    keep_rows: int,
    count: int,
    out: Path,
    label: str | None,
    device: str | None,
    **params: Any,
) -> None:
    """Finish images from their upper code rows, which are kept exactly.

    Writes the completions, completions.png with them in a row after the image and what is kept of
    it, and likelihood.png, where every code is the brighter the less the prior expected it (pale
    yellow: a uniform guess would have done as well). Without --label, no class is given.

    Example: imagetok complete --prior runs/digits-gpt/prior --image four.png --keep-rows 2
    --out completed
    """
    from prior.completion import PICTURE
    from prior.completion import complete as complete_images

    complete_images(
        prior, images, keep_rows=keep_rows, n=count, tokenizer=tokenizer, out=out,
        label=_parse_label(label), device=device, **params,
    )  # fmt: skip
    say(f"{count} completions of {len(images)} image(s) in {out}; side by side in {out / PICTURE}")


def _parse_label(text: str | None) -> list[int | str] | str | None:
    """`all` and `none` are words that a prior knows."""
    return text if text in (None, "all", "none") else [part.strip() for part in text.split(",")]
