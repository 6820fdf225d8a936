"""Images at their own sizes: which size each has, and those of one size as a dataset."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, final

import numpy as np

from imagetok.data.base import ImageDataset
from imagetok.data.image_decoding import ImageError
from imagetok.data.subset import ChosenImages
from imagetok.data.unreadable import Unreadable
from imagetok.images import ImageContract, ImageSize

_PIECE = 1024


class SizedGroups(NamedTuple):
    """The indices of images by size, and those that have none."""

    by_size: dict[ImageSize, list[int]]
    """Indices in order by (height, width), cropped to the stride; sizes ascend."""
    skipped: list[Unreadable]
    """Each image that is unreadable or smaller than the stride (`too_small`)."""


@final
class ImagesOfOneSize(ChosenImages):
    """Some images of a dataset, cropped to one size."""

    def __init__(self, dataset: ImageDataset, indices: Sequence[int], contract: ImageContract):
        super().__init__(dataset.with_contract(contract), indices)

    def identity(self) -> str:
        """Return a hash of the whole dataset's identity and of the chosen indices."""
        digest = hashlib.sha256(self.whole.identity().encode())
        digest.update(np.asarray(self.indices, dtype="<u8").tobytes())
        return digest.hexdigest()


def groups_by_size(dataset: ImageDataset, stride: int, threads: int) -> Iterator[SizedGroups | int]:
    """Sort the images of a dataset by size; yield how many are done, and last the groups."""
    by_size: dict[ImageSize, list[int]] = defaultdict(list)
    skipped: list[Unreadable] = []

    def size_of(index: int) -> ImageSize | ImageError:
        try:
            return dataset.native_size(index)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(dataset), _PIECE):
            piece = range(first, min(first + _PIECE, len(dataset)))
            for index, found in zip(piece, pool.map(size_of, piece), strict=True):
                if isinstance(found, ImageError):
                    skipped.append(Unreadable(index, dataset.path_of(index), found.reason))
                    continue
                height, width = (side // stride * stride for side in found)
                if height and width:
                    by_size[height, width].append(index)
                else:
                    skipped.append(Unreadable(index, dataset.path_of(index), "too_small"))
            yield piece.stop
    yield SizedGroups({size: by_size[size] for size in sorted(by_size)}, skipped)
