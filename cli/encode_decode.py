"""`imagetok encode` and `imagetok decode`."""

from collections import Counter
from pathlib import Path
from typing import Any

import click

from cli.options import (
    batch_size_option,
    data_option,
    device_option,
    say,
    show_usage,
    size_option,
    tokenizer_option,
    workers_option,
)
from imagetok.suggestions import counted


@click.command()
@tokenizer_option()
@data_option("Images: cifar10:train, a folder, a table, ...")
@click.option(
    "--shards", required=True, type=click.Path(path_type=Path), help="Folder of the code dataset."
)
@size_option()
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@click.option("--max-skip", default="0", metavar="N|P%", help="Unreadable images to allow [0].")
@click.option("--dry-run", is_flag=True, help="Estimate size, time and disk space; write nothing.")
@click.option(
    "--samples-per-shard",
    type=click.IntRange(min=1),
    default=65536,
    show_default=True,
    help="Images per shard; several processes share the work by shards.",
)
@click.option(
    "--views",
    type=click.Choice(["1", "2", "10"]),
    default="1",
    help="Views of each image: 2 adds its mirror image, 10 are the middle and the corners of a "
    "larger picture and their mirror images.",
)
@click.option(
    "--crop-range",
    type=float,
    help="Size of that picture, relative to the tokenizer's images; for 10 views [1.1].",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    help="Arithmetic of the encoder [float32]. tf32 (GPUs alone) and bfloat16 are faster and "
    "change some codes; --dry-run measures how many.",
)
@click.option("--bf16", is_flag=True, help="Short for --precision bfloat16.")
@device_option()
@batch_size_option()
@workers_option()
@click.pass_context
def encode(
    ctx: click.Context,
    tokenizer: str,
    data: str,
    shards: Path,
    size: str | None,
    limit: int | None,
    max_skip: str,
    dry_run: bool,
    samples_per_shard: int,
    views: str,
    crop_range: float | None,
    precision: str | None,
    bf16: bool,
    device: str | None,
    batch_size: int | None,
    workers: int | None,
) -> None:
    """Encode images to a code dataset (shards). Run it again to continue after an interruption.

    The value of --data (SPEC) is a path (a folder of images, a .csv or .jsonl table, a .tar) or
    SOURCE[:SPLIT][,key=value...], for example digits, cifar10:train, mnist:test,root=data,
    shapes:train,count=5000, celeba, lsun, kaokore, table:all,file=labels.csv,
    webdataset:all,shards=photos-{000..099}.tar, huggingface:train,name=user/name. All forms:
    https://imagetok.github.io/imagetok/reference/data-sources.html

    With --size native, --shards holds a code dataset for each size of images, and index.json.

    Example: imagetok encode --tokenizer runs/digits-edvae/tokenizer --data digits:train
    --shards runs/digits-edvae/codes/train
    """
    import imagetok

    if bf16 and precision not in (None, "bfloat16"):
        raise click.UsageError(f"--precision {precision} and --bf16 contradict; give one of them")
    options: dict[str, Any] = {
        "size": size,
        "limit": limit,
        "max_skip": max_skip,
        "samples_per_shard": samples_per_shard,
        "views": int(views),
        "crop_range": crop_range,
        "precision": "bfloat16" if bf16 else precision or "float32",
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
    }
    if dry_run:
        expected = imagetok.encode(tokenizer, data, shards, dry_run=True, **options)
        say(
            f"{_inputs(expected.inputs, expected.views)} -> "
            f"{counted(expected.num_shards, 'shard')}, about {expected.num_bytes:,} bytes "
            f"({expected.free_bytes:,} free), about {expected.seconds:.0f} s; nothing was written"
        )
        for name, share in expected.agreement.items():
            say(f"--precision {name}: {share:.2%} of the first images' codes are those of float32")
        return
    report = imagetok.encode(tokenizer, data, shards, **options)
    skips = report.skipped_images
    for skip in skips:
        say(f"skipped {skip.path}: {skip.reason}")
    for reason, count in Counter(skip.reason for skip in skips).most_common():
        say(f"skipped {count} of {report.num_images}: {reason}")
    show_usage(report.usage)
    say(f"{shards}: {report.num_bytes:,} bytes in {counted(report.num_shards, 'shard')}")
    if report.views > 1:
        say(
            f"inputs: {_inputs(report.inputs, report.views)}, {counted(len(skips), 'image')} "
            "skipped"
        )
    say(f"inputs {report.inputs} == written {report.written} + skipped {report.skipped}")
    if report.skipped:
        ctx.exit(4)


def _inputs(inputs: int, views: int) -> str:
    images = counted(inputs // views, "image")
    return images if views == 1 else f"{views} views of {images}"


@click.command()
@tokenizer_option()
@click.option("--shards", required=True, type=click.Path(path_type=Path), help="Code dataset.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for PNGs.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N images.")
@device_option()
def decode(tokenizer: str, shards: Path, out: Path, limit: int | None, device: str | None) -> None:
    """Decode a code dataset to images: one PNG file per image, named by its source index.

    Run it again to continue after an interruption.

    Example: imagetok decode --tokenizer runs/digits-edvae/tokenizer
    --shards runs/digits-edvae/codes/test --out decoded
    """
    import imagetok

    done = imagetok.decode(tokenizer, shards, out, limit=limit, device=device)
    say(f"{counted(done.num_images, 'image')} in {out} ({done.num_new} new)")
