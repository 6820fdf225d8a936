"""A dataset's images in the batches in which tokenizers are measured."""

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
"""Fixed, because the batch-mean perplexity of the EdVAE paper is defined on batches of 128."""


class Batch(NamedTuple):
    """At most BATCH images, as a model takes them and on its device."""

    number: int
    images: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, " B"]

    def draw(self) -> torch.Generator:
        """For test-time rules that sample: a new generator, always the same for this batch."""
        return seeding.generator(0, "evaluate", self.number, device=self.images.device)


def num_batches(count: int) -> int:
    """In which `count` images come."""
    return -(-count // EVALUATION_BATCH)


def read_batch(model: Autoencoder, dataset: ImageDataset, places: Sequence[int], n: int) -> Batch:
    """The n-th batch of the images at `places`."""
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
    """All images of a dataset once and in order, or those at `places`.

    work: what is done with them, for a progress bar; none without.
    """
    chosen = range(len(dataset)) if places is None else places
    with ProgressBar(work, len(chosen), enabled=bool(work)) as progress:
        for n in range(num_batches(len(chosen))):
            batch = read_batch(model, dataset, chosen, n)
            yield batch
            progress.update(min((n + 1) * EVALUATION_BATCH, len(chosen)))
