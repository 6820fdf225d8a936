"""The readable images of a dataset: what an evaluation measures if some are damaged."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import final

from accelerate.utils import gather_object

from imagetok.data.base import ImageDataset
from imagetok.data.image_decoding import ImageError
from imagetok.data.subset import ChosenImages
from imagetok.data.unreadable import Unreadable, parse_allowance, refuse_beyond
from imagetok.durable import canonical_json
from imagetok.errors import InputError
from imagetok.processes import process_state
from imagetok.progress import ProgressBar

_PIECE = 32


@contextmanager
def advising_to_skip() -> Iterator[None]:
    """Add to the error of an unreadable image that `--max-skip` would leave it out.

    Also a decorator, of a function that measures what `readable` returns.
    """
    try:
        yield
    except ImageError as error:
        raise ImageError(
            f"{error}; --max-skip leaves unreadable images of the data out, up to a number or a "
            "share such as 5%",
            error.path,
            error.reason,
        ) from None


@final
class ReadableImages(ChosenImages):
    """A dataset without its unreadable images, which `skipped` lists."""

    def __init__(self, dataset: ImageDataset, skipped: Sequence[Unreadable]):
        left_out = {image.index for image in skipped}
        super().__init__(dataset, [i for i in range(len(dataset)) if i not in left_out])
        self.skipped = tuple(skipped)

    def identity(self) -> str:
        """Return a hash of the whole dataset's identity and of the indices that are left out."""
        left_out = [image.index for image in self.skipped]
        return hashlib.sha256(canonical_json([self.whole.identity(), left_out])).hexdigest()


def readable(dataset: ImageDataset, max_skip: int | str) -> ImageDataset:
    """Return the dataset without the images that cannot be read, or itself if all can.

    max_skip: unreadable images to allow, a count or a percentage such as "1%". If it is 0, nothing
    is read here, and the first unreadable image will raise. Otherwise every image is decoded once;
    the processes of a distributed run share this, and each gets the result.

    Raises InputError beyond max_skip, or if no image is left.
    """
    allowed = parse_allowance(str(max_skip), len(dataset))
    if allowed == 0:
        return dataset
    state = process_state()
    mine = range(state.process_index, len(dataset), state.num_processes)
    skipped = find_unreadable(dataset, mine)
    if state.num_processes > 1:
        skipped = sorted(gather_object(skipped), key=lambda image: image.index)
    where = f"{dataset.name}:{dataset.split}"
    refuse_beyond(skipped, allowed, len(dataset), where)
    if len(skipped) == len(dataset):
        raise InputError(f"{where}: expected an image that can be read, found none")
    return ReadableImages(dataset, skipped) if skipped else dataset


def find_unreadable(dataset: ImageDataset, indices: Sequence[int]) -> list[Unreadable]:
    """Read the images at `indices`, with several threads, and list those that cannot be read."""
    pieces = [indices[start : start + _PIECE] for start in range(0, len(indices), _PIECE)]
    found: list[Unreadable] = []
    shown = process_state().is_main_process
    with (
        ThreadPoolExecutor() as pool,
        ProgressBar("checking images", len(indices), enabled=shown) as progress,
    ):
        try:
            for done, faults in enumerate(pool.map(lambda p: _faults(dataset, p), pieces), start=1):
                found += faults
                progress.update(min(done * _PIECE, len(indices)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return found


def _faults(dataset: ImageDataset, indices: Sequence[int]) -> list[Unreadable]:
    faults = []
    for index in indices:
        try:
            dataset.read([index])
        except ImageError as error:
            path = error.path or dataset.path_of(index)
            faults.append(Unreadable(index, path, error.reason))
    return faults
