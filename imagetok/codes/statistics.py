"""What a code dataset holds: totals, use and entropy of the codes, labels, and how it looks."""

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
    """One level's codes over the whole dataset."""

    num_codes: int
    grid: tuple[int, int]
    codes_used: int
    perplexity: float
    entropy_bits: float
    """Of a code, from the frequencies of all: no code that ignores its neighbours takes less."""


class BitsPerImage(NamedTuple):
    """What an image takes, in bits."""

    stored: float
    """In the shards, with label, source index and headers."""
    fixed: int
    """With ceil(log2 K) bits a code."""
    entropy: float
    """With each level's entropy a code."""


class CodeStatistics(NamedTuple):
    """A code dataset in numbers."""

    images: int
    skipped: dict[str, int]
    """Inputs without codes, by reason."""
    num_shards: int
    num_bytes: int
    levels: tuple[LevelStatistics, ...]
    bits_per_image: BitsPerImage
    labels: dict[str, int]
    """Images by class name, in the order of the classes; `none` for those without a label. Empty
    if unlabelled."""


def code_statistics(dataset: CodeDataset) -> CodeStatistics:
    """Count a code dataset; reads, and so verifies, the shards only if it is labelled."""
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
    """Decode images spread evenly over a dataset and lay them out as one PNG; returns how many.

    Raises ShardError when the codes are another tokenizer's, InputError for an empty dataset.
    """
    check_dataset_fingerprint(dataset, tokenizer)
    if not len(dataset):
        raise InputError(f"{dataset.place}: no images to show, it is empty")
    count = min(count, len(dataset))
    chosen = [i * len(dataset) // count for i in range(count)]
    images = as_rgb(decode_in_batches(tokenizer, dataset.__getitems__(chosen).codes))
    scale = max(1, 64 // max(images.shape[2:]))  # small images can hardly be seen
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
    counts = np.zeros(len(names) + 1, dtype=np.int64)  # the last one: none
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
