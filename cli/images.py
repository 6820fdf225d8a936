"""`imagetok reconstruct`."""

from pathlib import Path

import click

from cli.options import choose_device, device_option, say, tokenizer_option


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@tokenizer_option()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reconstruction.png"),
    show_default=True,
    help="The picture to write.",
)
@device_option()
def reconstruct(images: tuple[Path, ...], tokenizer: str, out: Path, device: str | None) -> None:
    """Write one picture: each image as the tokenizer reads it, and what comes back, below it.

    Example: imagetok reconstruct --tokenizer runs/cifar10-edvae-cpu/tokenizer photo.jpg
    """
    import torch

    from imagetok.data import open_image, prepare
    from imagetok.evaluation.quality import quality, quality_sums
    from imagetok.images import clamp_pixels, from_stored
    from imagetok.pictures import coloured, save_grid, side_by_side
    from imagetok.tokenizers import Autoencoder

    model = Autoencoder.from_pretrained(tokenizer).to(choose_device(device))
    as_labels = model.image.mode == "labels"
    stored = [prepare(open_image(p, as_labels), model.image) for p in images]
    batch = from_stored(torch.stack(stored), model.image)
    x_hat = clamp_pixels(model.reconstruct(batch.to(choose_device(device)))).cpu()
    columns = min(8, len(images))
    scale = max(1, 128 // model.image.height)
    save_grid(
        side_by_side(coloured(batch), coloured(x_hat), columns), out, columns=columns, scale=scale
    )
    for i, path in enumerate(images):
        one = slice(i, i + 1)
        measures = quality(quality_sums(x_hat[one], batch[one], model.image), 1, model.image)
        name, value = next(iter(measures.items()))
        say(f"  {path}  {name} {value:.5f}")
    say(f"{out}: originals above, reconstructions below")
