"""`imagetok evaluate`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from cli.options import (
    data_option,
    device_option,
    given,
    max_skip_option,
    say,
    show_columns,
    show_skips,
    tokenizer_option,
    workers_option,
)
from cli.parameters import PATH_OR_ID, OneOf
from imagetok.protocols import PROTOCOLS


@click.command()
@tokenizer_option(required=False)
@data_option(required=False)
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="DIR|NPZ",
    help="Compare the images in this folder, or in `arr_0` of this npz file, with --data, instead "
    "of measuring reconstructions.",
)
@click.option(
    "--reference-count",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --samples: compare with N images of --data, drawn with a fixed seed [all].",
)
@click.option(
    "--protocol",
    type=OneOf(list(PROTOCOLS)),
    help="Fix crop, counts and reference as published; refuse anything else. "
    + " ".join(f"{protocol.name}: {protocol.summary}." for protocol in PROTOCOLS.values()),
)
@click.option(
    "--prior",
    type=PATH_OR_ID,
    help="Measure the bits per code of this prior on --shards, instead of images.",
)
@click.option(
    "--shards",
    type=click.Path(path_type=Path),
    help="With --prior: folder of the code dataset, such as that of the test images.",
)
@click.option(
    "--features",
    multiple=True,
    metavar="NETWORK",
    help="Also measure distances (such as FID) in the features of this network: inception, vgg16, "
    "torchvision:MODEL (each also with =FILE), cifar-resnet=FILE or python:MODULE:FUNCTION. "
    "May be repeated.",
)
@click.option(
    "--feature-cache",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the features of --data in this folder, for other measurements against them.",
)
@click.option(
    "--lpips",
    "perceptual",
    multiple=True,
    metavar="alex|vgg",
    help="Also measure LPIPS between images and reconstructions (each also with =FILE).",
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also show the measures in this file, an earlier --out, as another column.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Also write the measures as JSON.")
@max_skip_option("Unreadable images of --data to leave out [0].")
@device_option()
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images per batch of a feature network; default: 100 on a CPU, on a GPU as many as pay.",
)
@workers_option()
def evaluate(
    tokenizer: str | None,
    data: str | None,
    samples: Path | None,
    reference_count: int | None,
    protocol: str | None,
    prior: str | None,
    shards: Path | None,
    features: tuple[str, ...],
    feature_cache: Path | None,
    perceptual: tuple[str, ...],
    beside: tuple[Path, ...],
    out: Path | None,
    max_skip: str | None,
    device: str | None,
    batch_size: int | None,
    workers: int | None,
) -> int:
    """Measure reconstructions, samples of a prior, or a prior.

    --tokenizer and --data: reconstruction errors and codebook utilisation on a data split. Images
    are resized and cropped as for the tokenizer. With --samples: distances between these samples
    and the split, with --features only. --prior and --shards: bits per code of a prior on a code
    dataset.

    Example: imagetok evaluate --tokenizer runs/digits-edvae/tokenizer --data digits:test

    Example: imagetok evaluate --prior runs/digits-gpt/prior --shards runs/digits-edvae/codes/test
    """
    images = {
        "--tokenizer": tokenizer,
        "--data": data,
        "--samples": samples,
        "--reference-count": reference_count,
        "--protocol": protocol,
        "--features": features,
        "--feature-cache": feature_cache,
        "--lpips": perceptual,
        "--max-skip": max_skip,
        "--batch-size": batch_size,
        "--workers": workers,
    }
    codes = {"--prior": prior, "--shards": shards}
    if prior is not None or shards is not None:
        _check_options(codes, codes, images)
        from prior.code_evaluation import evaluate as evaluate_prior

        assert prior is not None and shards is not None
        found = evaluate_prior(prior, shards, beside=beside, out=out, device=device)
        skipped = ()
    else:
        _check_options(("--tokenizer", "--data"), images, codes)
        import imagetok

        assert tokenizer is not None and data is not None
        found = imagetok.evaluate(
            tokenizer,
            data,
            samples=samples,
            reference_count=reference_count,
            protocol=protocol,
            features=features,
            feature_cache=feature_cache,
            lpips=perceptual,
            beside=beside,
            out=out,
            device=device,
            batch_size=batch_size,
            workers=workers,
            **given(max_skip=max_skip),
        )
        skipped = found.skipped
    say(found.title())
    if protocol is not None:
        published = [name for name in PROTOCOLS[protocol].reports if name in found.measures]
        say(f"protocol {protocol}, which reports {', '.join(published)}")
    show_columns(found.table())
    return show_skips(skipped)


def _check_options(
    required: Iterable[str], options: Mapping[str, object], others: Mapping[str, object]
) -> None:
    """Raise UsageError for a missing option, or for one of the other use of the command."""
    for name in required:
        if options[name] is None:
            raise click.UsageError(
                f"Missing option '{name}'; expected --tokenizer and --data, to measure images, or "
                "--prior and --shards, to measure a prior. With --samples, the tokenizer says how "
                "--data is cropped and resized."
            )
    refused = [name for name, value in others.items() if value not in (None, ())]
    if refused:
        raise click.UsageError(
            f"{refused[0]}: cannot be combined with {' and '.join(required)}; omit one or the other"
        )
