"""Batches of a dataset's images for evaluation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from imagetok import seeding
from imagetok.data import ImageBatch, ImageDataset
from imagetok.processes import device_of
from imagetok.progress import ProgressBar
from imagetok.tokenizers import Autoencoder
from imagetok.tokenizers.deferred_checks import stored_on

EVALUATION_BATCH = 128
"""Images per batch; fixed, because the EdVAE paper defines its perplexity on batches of 128."""


class Batch(NamedTuple):
    """At most EVALUATION_BATCH images in [0, 1] on the model's device, with their labels."""

    number: int
    images: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, " B"]

    def draw(self) -> torch.Generator:
        """Return a new generator, seeded by the batch number, for quantizers that sample."""
        return seeding.generator(0, "evaluate", self.number, device=self.images.device)


def num_batches(count: int) -> int:
    """Return the number of batches that `count` images make."""
    return -(-count // EVALUATION_BATCH)


def places_of(places: Sequence[int], n: int) -> Sequence[int]:
    """Return the n-th batch of indices."""
    return places[n * EVALUATION_BATCH : (n + 1) * EVALUATION_BATCH]


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
    with ProgressBar(work, len(chosen), enabled=bool(work)) as progress:
        for n in range(num_batches(len(chosen))):
            yield batch_of(model, dataset.read(places_of(chosen, n)), n)
            progress.update(min((n + 1) * EVALUATION_BATCH, len(chosen)))
