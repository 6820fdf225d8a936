"""`imagetok sample`."""

from pathlib import Path

import click

from cli.options import choose_device, device_option, say


@click.command()
@click.option(
    "--prior",
    required=True,
    metavar="PATH|ID",
    help="Prior folder, or Hub id user/name[@revision].",
)
@click.option("--tokenizer", metavar="PATH|ID", help="Default: the one embedded in the prior.")
@click.option("-n", "count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for PNGs.")
@click.option("--label", help="A class, several (0,3 or cat,dog), or none [each in turn].")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=int, help="Only the k most likely codes.")
@click.option("--top-p", type=float, help="Only the most likely codes of this total probability.")
@click.option("--guidance", type=float, default=1.0, show_default=True, help="1 is off.")
@click.option("--seed", type=int, default=0, show_default=True)
@device_option()
def sample(
    prior: str,
    tokenizer: str | None,
    count: int,
    out: Path,
    label: str | None,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    guidance: float,
    seed: int,
    device: str | None,
) -> None:
    """Draw new images: PNG files, one grid, and samples.json with what made them.

    Image j of a seed is always the same, however many are drawn.

    Example: imagetok sample --prior runs/digits-gpt/prior -n 20 --label 3 --out threes
    """
    from cli.pipelines import sample_images

    sample_images(
        prior,
        tokenizer,
        out,
        count,
        labels=_parse_label(label),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        seed=seed,
        device=choose_device(device),
    )
    say(f"{count} images in {out}; all together in {out / 'grid.png'}")


def _parse_label(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    return [-1] if text == "none" else [part.strip() for part in text.split(",")]
