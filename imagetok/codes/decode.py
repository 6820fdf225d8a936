"""Codes back to images, in fixed padded batches."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imagetok.codes.reader import CodeDataset
from imagetok.durable import write_bytes
from imagetok.errors import ConfigError, ShardError
from imagetok.images import Images, to_stored
from imagetok.quantizers import Codes
from imagetok.report.pictures import grid, palette, png_bytes
from imagetok.tokenizers import Tokenizer

BATCH = 64


def decode_in_batches(tokenizer: Tokenizer, codes: Codes) -> Images:
    """Images as from `Tokenizer.decode`, on the CPU.

    Every forward pass has `BATCH` images, the last one padded, so an image does not depend on how
    many are decoded with it.
    """
    device = next(tokenizer.parameters()).device
    count = len(codes[0])
    parts = []
    for start in range(0, max(count, 1), BATCH):
        part = tuple(level[start : start + BATCH].to(device) for level in codes)
        size = len(part[0])
        padded = tuple(
            torch.cat([level, level.new_zeros(BATCH - size, *level.shape[1:])]) for level in part
        )
        parts.append(tokenizer.decode(padded)[:size].cpu())
    return torch.cat(parts)


def check_fingerprint(dataset: CodeDataset, tokenizer: Tokenizer) -> None:
    """Raise ShardError when the codes are another tokenizer's."""
    if dataset.fingerprint != tokenizer.fingerprint:
        raise ShardError(
            f"{dataset.place}: codes of tokenizer {dataset.fingerprint[:16]} "
            f"({dataset.plan.tokenizer.name}), but --tokenizer is {tokenizer.fingerprint[:16]}; "
            "pass the tokenizer that made them"
        )


def save_images(images: Images, folder: Path, names: Sequence[int]) -> None:
    """Write `NNNNNN.png` for each image; the classes of label maps become places in a palette."""
    for name, pixels in zip(names, to_stored(images), strict=True):
        picture = grid(pixels[None], columns=1, padding=0)
        if not images.is_floating_point():
            picture.putpalette(palette().tobytes())
        write_bytes(folder / f"{name:06d}.png", png_bytes(picture))


def decode_dataset(
    tokenizer: Tokenizer, dataset: CodeDataset, folder: Path, limit: int | None = None
) -> int:
    """Decode a code dataset to PNG files named by source index; returns how many.

    Raises ShardError when the codes are another tokenizer's, ConfigError when `folder` holds
    anything.
    """
    check_fingerprint(dataset, tokenizer)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: not empty; choose another --out")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, count, BATCH):
        batch = dataset.__getitems__(range(start, min(start + BATCH, count)))
        save_images(decode_in_batches(tokenizer, batch.codes), folder, batch.keys.tolist())
    return count
