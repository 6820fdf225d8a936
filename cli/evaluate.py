"""`imagetok evaluate`."""

from pathlib import Path

import click

from cli.options import (
    choose_device,
    data_option,
    device_option,
    say,
    show_columns,
    tokenizer_option,
)


@click.command()
@tokenizer_option()
@data_option()
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Compare the images of this folder with --data, instead of reconstructions.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also distances in the features of: inception, vgg16, torchvision:MODEL (each also with "
    "=FILE), cifar-resnet=FILE, python:MODULE:FUNCTION. May be given several times.",
)
@click.option(
    "--lpips",
    "perceptual",
    multiple=True,
    metavar="alex|vgg",
    help="Also how different images and their reconstructions look (each also with =FILE).",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show the measures of an earlier --out in a column of their own.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the measures as JSON.")
@device_option()
def evaluate(
    tokenizer: str,
    data: str,
    samples: Path | None,
    features: tuple[str, ...],
    perceptual: tuple[str, ...],
    beside: tuple[Path, ...],
    out: Path | None,
    device: str | None,
) -> None:
    """Measure reconstructions and codebook use over every image of a split, or drawn samples.

    Images are read as the tokenizer reads them. Samples are measured by features alone.

    Example: imagetok evaluate --tokenizer runs/digits-edvae/tokenizer --data digits:test
    """
    from imagetok.data import describe, open_images, parse_spec
    from imagetok.durable import write_json
    from imagetok.errors import ConfigError
    from imagetok.evaluation.features import open_features
    from imagetok.evaluation.perceptual import open_perceptual
    from imagetok.evaluation.records import (
        measure_reconstructions,
        measure_samples,
        read_record,
        side_by_side,
    )
    from imagetok.processes import process_state
    from imagetok.tokenizers import Autoencoder

    if out is not None and out.is_dir():
        raise click.UsageError(f"--out {out}: expected a file name, found a folder")
    where = choose_device(device)
    earlier = {str(path): read_record(path) for path in beside}
    networks = [open_features(spec).to(where) for spec in features]
    looks = [open_perceptual(spec).to(where) for spec in perceptual]
    model = Autoencoder.from_pretrained(tokenizer).to(where)
    config, split = parse_spec(data)
    dataset = open_images(config, split, model.image)
    if samples is None:
        record = measure_reconstructions(model, dataset, networks, looks, earlier)
    elif looks:
        raise ConfigError("--lpips: compares images with their reconstructions, not with --samples")
    else:
        record = measure_samples(samples, dataset, networks, earlier)
    source = describe(config, split)
    record["subject"]["data"] = source
    if out is not None and process_state().is_main_process:
        write_json(out, record)
    say(f"{tokenizer if samples is None else samples} on {source}")
    rows = side_by_side({"this": record, **earlier})
    if "mse" in rows:  # the papers' unit
        errors = {name: 1e3 * value for name, value in rows["mse"].items()}
        rows = {("mse x 10^3" if row == "mse" else row): rows[row] for row in rows}
        rows["mse x 10^3"] = errors
    show_columns(rows)
