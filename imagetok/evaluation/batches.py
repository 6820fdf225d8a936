"""Batches of a dataset's images for evaluation."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from imagetok import seeding
from imagetok.data import ImageDataset
from imagetok.images import from_stored
from imagetok.processes import device_of
from imagetok.progress import ProgressBar
from imagetok.tokenizers import Autoencoder

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


def read_batch(model: Autoencoder, dataset: ImageDataset, places: Sequence[int], n: int) -> Batch:
    """Read the n-th batch of the images whose dataset indices are `places`."""
    stored = dataset.read(places[n * EVALUATION_BATCH : (n + 1) * EVALUATION_BATCH])
    device = device_of(model)
    return Batch(n, from_stored(stored.images.to(device), model.image), stored.labels)


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
            batch = read_batch(model, dataset, chosen, n)
            yield batch
            progress.update(min((n + 1) * EVALUATION_BATCH, len(chosen)))
