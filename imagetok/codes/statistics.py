"""Statistics of a code dataset: totals, codebook utilisation, entropy, labels, contact sheet."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagetok.codes.decode import check_dataset_fingerprint, decode_in_batches
from imagetok.codes.reader import CodeDataset
from imagetok.errors import InputError
from imagetok.pictures import as_rgb, save_grid
from imagetok.tokenizers import Tokenizer

_BATCH = 16384


class LevelStatistics(NamedTuple):
    """Codebook utilisation of one level over the whole dataset."""

    num_codes: int
    grid: tuple[int, int]
    codes_used: int
    perplexity: float
    entropy_bits: float
    """Entropy of one code under the frequencies of all codes: the least number of bits per code
    for a coder that ignores the neighbouring codes."""


class BitsPerImage(NamedTuple):
    """Size of an image's codes in bits, in three representations."""

    stored: float
    """As stored in the shards, including label, source index and headers."""
    fixed: int
    """With ceil(log2 K) bits per code."""
    entropy: float
    """With each code at its level's entropy."""


class CodeStatistics(NamedTuple):
    """Statistics of a code dataset."""

    images: int
    skipped: dict[str, int]
    """Number of skipped inputs by reason."""
    num_shards: int
    num_bytes: int
    levels: tuple[LevelStatistics, ...]
    bits_per_image: BitsPerImage
    labels: dict[str, int]
    """Number of images by class name, in the order of the classes, and under `none` of images
    without a label; empty for an unlabelled dataset."""


def code_statistics(dataset: CodeDataset) -> CodeStatistics:
    """Compute the statistics of a code dataset.

    Shards are read, and thus verified, only for a labelled dataset; all other numbers come from
    the manifest and the records. Raises ShardError for a damaged file.
    """
    plan, manifest = dataset.plan, dataset.manifest
    levels = tuple(
        LevelStatistics(
            use.num_codes, grid, use.codes_used, use.perplexity, float(np.log2(use.perplexity))
        )
        for use, grid in zip(manifest.usage, plan.grids, strict=True)
    )
    sizes = [level.grid[0] * level.grid[1] for level in levels]
    num_bytes = sum(entry.bytes for entry in manifest.shards)
    return CodeStatistics(
        images=len(dataset),
        skipped=_skips(dataset),
        num_shards=len(manifest.shards),
        num_bytes=num_bytes,
        levels=levels,
        bits_per_image=BitsPerImage(
            stored=8 * num_bytes / max(1, len(dataset)),
            fixed=sum(
                n * (level.num_codes - 1).bit_length()
                for n, level in zip(sizes, levels, strict=True)
            ),
            entropy=sum(n * level.entropy_bits for n, level in zip(sizes, levels, strict=True)),
        ),
        labels=_labels(dataset) if plan.labelled else {},
    )


def save_contact_sheet(
    dataset: CodeDataset, tokenizer: Tokenizer, path: Path, *, count: int = 64, columns: int = 8
) -> int:
    """Decode up to `count` images, spread evenly over a dataset, into one PNG; return how many.

    Raises ShardError when another tokenizer made the codes, InputError for an empty dataset.
    """
    check_dataset_fingerprint(dataset, tokenizer)
    if not len(dataset):
        raise InputError(f"{dataset.place}: expected a dataset with images, found an empty one")
    count = min(count, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    images = as_rgb(decode_in_batches(tokenizer, dataset[chosen].codes))
    scale = max(1, 64 // max(images.shape[2:]))  # small images are enlarged to about 64 pixels
    save_grid(images, path, min(columns, count), scale)
    return count


def _skips(dataset: CodeDataset) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    if dataset.manifest.skipped:
        for shard in range(dataset.plan.num_shards):
            reasons.update(skip.reason for skip in dataset.record(shard).skipped)
    return dict(reasons.most_common())


def _labels(dataset: CodeDataset) -> dict[str, int]:
    names = dataset.plan.class_names
    counts = np.zeros(len(names) + 1, dtype=np.int64)  # the last one counts label -1
    for batch in dataset.batches(_BATCH):
        labels = batch.labels.numpy()
        if labels.min() < -1 or labels.max() >= len(names):
            raise InputError(
                f"{dataset.place}: expected labels in [-1, {len(names)}), found "
                f"{labels.min()} to {labels.max()}"
            )
        counts += np.bincount(labels % len(counts), minlength=len(counts))
    found = dict(zip(names, counts[:-1].tolist(), strict=True))
    return found | ({"none": int(counts[-1])} if counts[-1] else {})
