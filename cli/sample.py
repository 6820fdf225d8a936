"""`imagetok sample` and `imagetok complete`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.options import device_option, say
from cli.parameters import PATH_OR_ID
from imagetok.suggestions import counted

_SAMPLING = (
    click.option("--label", help="Class name or number, several (cat,dog or 0,3), all, or none."),
    click.option(
        "--temperature", type=float, default=1.0, show_default=True, help="Greater than 0."
    ),
    click.option("--greedy", is_flag=True, help="Always choose the most likely code."),
    click.option("--top-k", type=int, help="Sample from the k most likely codes."),
    click.option(
        "--top-p", type=float, help="Sample from the likeliest codes with this total probability."
    ),
    click.option(
        "--guidance",
        type=float,
        default=1.0,
        show_default=True,
        help="Classifier-free guidance scale; 1: off.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed."),
    device_option(),
)


def _prior_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options `--prior` and `--tokenizer`."""
    tokenizer = click.option(
        "--tokenizer", type=PATH_OR_ID, help="Tokenizer; default: the one stored with the prior."
    )
    help_text = "Prior folder, or Hub id user/name[@revision]."
    prior = click.option("--prior", required=True, type=PATH_OR_ID, help=help_text)
    return prior(tokenizer(command))


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of sampling: label, temperature, top-k, top-p, guidance, seed, device."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


@click.command()
@_prior_options
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Number of images.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for PNGs.")
@click.option(
    "--npz",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also, or instead of --out: one file of all images, as ADM's evaluation reads it.",
)
@click.option(
    "--shards", type=click.Path(path_type=Path), help="Instead of --out: folder of a code dataset."
)
@click.option(
    "--samples-per-shard",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Images per shard (with --shards).",
)
@click.option(
    "--cuda-graphs",
    is_flag=True,
    help="Record the steps of sampling as CUDA graphs (GPT and PixelSNAIL, on a CUDA GPU). Never "
    "run on a GPU yet.",
)
@_sampling_options
def sample(
    prior: str,
    tokenizer: str | None,
    count: int,
    out: Path | None,
    npz: Path | None,
    shards: Path | None,
    samples_per_shard: int,
    cuda_graphs: bool,
    label: str | None,
    device: str | None,
    **params: Any,
) -> None:
    """Draw new images from a prior. Run it again to continue, with --out also with a larger -n.

    --out writes PNG files, one grid and samples.json, which records the prior and the sampling
    parameters. --npz writes all images as one array, `arr_0` of (N, H, W, 3) uint8, and their
    classes as `arr_1`. --shards writes only the codes. Sample j depends only on the seed and j: not
    on -n, the batch size or the number of processes. Without --label, the classes are cycled
    through.

    Example: imagetok sample --prior runs/digits-gpt/prior -n 20 --label 3 --out threes
    """
    if (out is None and npz is None) == (shards is None):
        raise click.UsageError(
            "expected either --out DIR or --npz FILE, for images, or --shards DIR, for codes"
        )
    from prior.generation import GRID, generate, generate_codes

    images = counted(count, "image")
    how = {
        "tokenizer": tokenizer, "label": label, "device": device, "cuda_graphs": cuda_graphs,
        **params,
    }  # fmt: skip
    if out is not None or npz is not None:
        drawn = generate(prior, count, out=out, npz=npz, **how)
        if out is not None:
            say(f"{images} in {out} ({drawn.num_new} new); the first in {out / GRID}")
        if npz is not None:
            say(f"{images} in {npz}")
        if drawn.speed is not None:
            first, seconds, rate = drawn.speed
            say(f"the first {first} after {seconds:.2g} s; {rate:.3g} images/s")
    elif shards is not None:
        made = generate_codes(prior, count, shards, samples_per_shard=samples_per_shard, **how)
        for level, use in made.rows().items():
            say(f"{level}: {use}")
        say(f"codes of {images} in {shards}")


@click.command()
@_prior_options
@click.option(
    "--image",
    "images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="An image file; may be repeated.",
)
@click.option(
    "--keep-rows", type=int, required=True, help="Upper rows of codes to keep (coarsest level)."
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Completions per image.",
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
    """Complete images with a prior: the upper rows of codes are kept, the others are sampled.

    Writes the completions; completions.png, with a row per image (the image, the part that is
    kept, the completions); and likelihood.png, the same with maps of the negative log-likelihood
    of every code (black: certain; pale yellow: no better than a uniform guess). Without --label,
    the prior is sampled without a class.

    Example: imagetok complete --prior runs/digits-gpt/prior --image four.png --keep-rows 2
    --out completed
    """
    from prior.completion import PICTURE
    from prior.completion import complete as complete_images

    complete_images(
        prior, images, keep_rows=keep_rows, n=count, tokenizer=tokenizer, out=out,
        label=label, device=device, **params,
    )  # fmt: skip
    say(f"{count} completions of {len(images)} image(s) in {out}; side by side in {out / PICTURE}")
