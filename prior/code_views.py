"""Training codes of images with several views: one view of each image an epoch."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import numpy as np

from imagetok import seeding
from imagetok.codes.reader import CodeBatch, CodeDataset
from imagetok.durable import canonical_json
from imagetok.errors import ShardError
from prior.sequence import Codes

COUNTED_BATCH = 8192


@final
class OneViewAnEpoch:
    """Some images of a code dataset; each is read in a view that is drawn for every epoch.

    The view depends only on the seed, the epoch and the image.
    """

    def __init__(self, dataset: CodeDataset, images: Sequence[int], seed: int, note: str = ""):
        """Choose the images: positions among the images that the dataset holds.

        note: part of the identity; a fact on which a run depends besides the samples.
        """
        self.dataset = dataset
        self.images = images
        self.seed = seed
        self.note = note

    def __len__(self) -> int:
        return len(self.images)

    def identity(self) -> str:
        """Return an identity of the dataset's content, the chosen images and the note."""
        chosen = hashlib.sha256(canonical_json(list(self.images))).hexdigest()
        return f"{self.dataset.manifest.root}/one view/{chosen}{self.note}"

    def read_at(self, indices: list[int], epochs: list[int]) -> CodeBatch:
        """Return images as they are in `epochs`, one epoch each.

        Raises ShardError if the dataset does not hold all views of each image.
        """
        images = [self.images[i] for i in indices]
        draws = seeding.uniforms(self.seed, "view", zip(images, epochs, strict=True), 1)[:, 0]
        views = (draws * self.dataset.views).astype(np.int64)
        batch = self.dataset[(np.array(images) * self.dataset.views + views).tolist()]
        found = self.dataset.image_and_view(batch.keys)[1].numpy()
        if not np.array_equal(found, views):
            wrong = int((found != views).argmax())
            raise ShardError(
                f"{self.dataset.place}: expected all {self.dataset.views} views of each image, "
                f"found view {found[wrong]} in place of view {views[wrong]} of an image; encode "
                "the images again"
            )
        return batch

    def batches(self) -> Iterator[Codes]:
        """Yield the codes of all images as they are in the first epoch, in order."""
        for start in range(0, len(self), COUNTED_BATCH):
            indices = list(range(start, min(start + COUNTED_BATCH, len(self))))
            yield self.read_at(indices, [0] * len(indices)).codes


def samples_of(images: Sequence[int], views: int) -> Sequence[int]:
    """Return the indices of all samples of some images, view by view."""
    if views == 1:
        return images
    return [image * views + view for image in images for view in range(views)]


def first_views(images: Sequence[int], views: int) -> Sequence[int]:
    """Return the index of the sample of view 0 of some images."""
    return images if views == 1 else [image * views for image in images]
