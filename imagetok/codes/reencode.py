"""Encoding some images of a code dataset again, to check that the stored codes still match."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import torch

from imagetok.codes.decode import check_dataset_fingerprint
from imagetok.codes.encode import encode_range
from imagetok.codes.merge import merged_parts
from imagetok.codes.reader import CodeDataset
from imagetok.codes.schema import CodePlan
from imagetok.data import ImageDataset
from imagetok.data.subset import FirstImages
from imagetok.data.views import views_of
from imagetok.errors import ShardError
from imagetok.tokenizers import Tokenizer


class Difference(NamedTuple):
    """An image whose codes differ from those stored in the dataset."""

    path: str
    """Path of the image, or its index in the source where it has no path."""
    codes: int
    """Number of its codes that differ."""
    of: int
    """Number of its codes."""


class Reencoding(NamedTuple):
    """Result of `reencode`."""

    images: int
    """Number of images compared; images that are unreadable now, or were then, are left out."""
    differences: list[Difference]


def reencode(
    dataset: CodeDataset, tokenizer: Tokenizer, images: ImageDataset, count: int
) -> Reencoding:
    """Encode about `count` images, spread over the source, with the plan's settings, and compare.

    images: opened with the `picture_contract` of the plan; each of their views counts as an image.
    Whole micro-batches are encoded, so the count is rounded up to a multiple of them. On the
    machine that made the codes all are equal, for any number of threads; on another one, codes
    that are nearly tied may differ. Raises ShardError when the tokenizer or the images are not
    those of the dataset.
    """
    check_dataset_fingerprint(dataset, tokenizer)
    offset, pictures = _part_of(dataset, images)
    shown = views_of(pictures, dataset.views, dataset.plan.image)
    compared, differences = 0, []
    for inputs in _micro_batches(dataset.plan, len(shown), count):
        for part in encode_range(tokenizer, shown, dataset.plan, inputs, 1):
            for row, key in enumerate(part.keys.tolist()):
                stored = _stored(dataset, key + offset)
                if stored is None:
                    continue
                compared += 1
                new = [torch.from_numpy(level[row]) for level in part.codes]
                wrong = sum(int((a != b).sum()) for a, b in zip(stored, new, strict=True))
                if wrong:
                    size = sum(level.numel() for level in new)
                    differences.append(Difference(_name(dataset, shown, key), wrong, size))
    return Reencoding(compared, differences)


def _name(dataset: CodeDataset, shown: ImageDataset, key: int) -> str:
    path = shown.path_of(key)
    return path if dataset.views == 1 else f"{path}, view {dataset.image_and_view(key)[1]}"


def _part_of(dataset: CodeDataset, images: ImageDataset) -> tuple[int, ImageDataset]:
    """Return the first source index of `images` in the dataset, and the images it encoded."""
    whole, offset = images.identity(), 0
    parts = merged_parts(dataset.plan)
    for part in parts:
        size = part.num_inputs // dataset.views
        if part.source_identity == f"{whole}[:{size}]":  # encoded with `--limit`
            return offset, FirstImages(images, size)
        if part.source_identity == whole:
            return offset, images
        offset += part.num_inputs
    raise ShardError(
        f"{dataset.place}: expected --data to be {' or '.join(part.source for part in parts)}, "
        f"found other images: {len(images)} of {images.name}:{images.split}; if this is the same "
        "source, its files were added, removed, replaced or relabelled since then"
    )


def _micro_batches(plan: CodePlan, num_images: int, count: int) -> Iterator[range]:
    """Yield enough of the encoder's micro-batches for `count` images, spread over the shards.

    As in `encode`, no micro-batch crosses the border of a shard.
    """
    a_shard = -(-plan.samples_per_shard // plan.micro_batch)
    full, rest = divmod(num_images, plan.samples_per_shard)
    total = full * a_shard + -(-rest // plan.micro_batch)
    wanted = min(total, -(-count * total // max(1, num_images)))
    for i in range(wanted):
        shard, place = divmod(i * total // wanted, a_shard)
        first, end = (min(s * plan.samples_per_shard, num_images) for s in (shard, shard + 1))
        start = first + place * plan.micro_batch
        yield range(start, min(start + plan.micro_batch, end))


def _stored(dataset: CodeDataset, key: int) -> list[torch.Tensor] | None:
    """Return the stored codes of a source index; None if the image was skipped."""
    place = bisect_left(range(len(dataset)), key, key=lambda i: dataset[i].key)
    if place == len(dataset) or dataset[place].key != key:
        return None
    return [level[0] for level in dataset[[place]].codes]
