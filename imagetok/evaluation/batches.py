"""Batches of a dataset's images for evaluation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from imagetok import seeding
from imagetok.batch_size import images_at_once
from imagetok.data import ImageBatch, ImageDataset
from imagetok.images import ImageContract
from imagetok.processes import device_of
from imagetok.progress import ProgressBar
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.deferred_checks import stored_on

EVALUATION_BATCH = 128
"""Images per batch, or those of several batches where images are large; fixed, because the EdVAE
paper defines its perplexity on batches of 128."""


class Batch(NamedTuple):
    """At most `evaluation_batch` images in [0, 1] on the model's device, with their labels."""

    number: int
    images: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, " B"]

    def draw(self) -> torch.Generator:
        """Return a new generator, seeded by the batch number, for quantizers that sample."""
        return seeding.generator(0, "evaluate", self.number, device=self.images.device)


def evaluation_batch(image: ImageContract) -> int:
    """Return the images per batch: EVALUATION_BATCH, or equal parts of it for large images."""
    return images_at_once(EVALUATION_BATCH, image)


def rounds(count: int, image: ImageContract, rank: int, ranks: int) -> list[int | None]:
    """Return the number of a process's batch in each round of work on `count` images.

    A process has whole runs of EVALUATION_BATCH images; None where no batch is left for it.
    rank, ranks: of the process, and the number of processes.
    """
    size = evaluation_batch(image)
    parts, total = EVALUATION_BATCH // size, -(-count // size)
    runs = -(-count // EVALUATION_BATCH)
    firsts = range(0, runs, ranks)
    numbers = ((run + rank) * parts + n for run in firsts for n in range(parts))
    return [number if number < total else None for number in numbers]


def places_of(places: Sequence[int], n: int, size: int) -> Sequence[int]:
    """Return the n-th batch of indices."""
    return places[n * size : (n + 1) * size]


def batch_of(model: Autoencoder, stored: ImageBatch, n: int) -> Batch:
    """Return the n-th batch from the images that were read for it, without waiting for a device."""
    return Batch(n, stored_on(device_of(model), stored.images, model.image), stored.labels)


def batches(
    model: Autoencoder,
    dataset: ImageDataset,
    places: Sequence[int] | None = None,
    *,
    work: str = "",
) -> Iterator[Batch]:
    """Yield all images of a dataset once and in order, or those with the indices `places`.

    work: description for a progress bar; "" shows none.
    """
    chosen = range(len(dataset)) if places is None else places
    size = evaluation_batch(model.image)
    with ProgressBar(work, len(chosen), enabled=bool(work)) as progress:
        for n in range(-(-len(chosen) // size)):
            yield batch_of(model, dataset.read(places_of(chosen, n, size)), n)
            progress.update(min((n + 1) * size, len(chosen)))
