"""A quick look at all files of a dataset: their headers in parallel, with a cache."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from imagetok.data.base import ImageDataset
from imagetok.data.header_cache import HeaderCache
from imagetok.data.image_decoding import ImageError
from imagetok.data.image_header import ImageHeader
from imagetok.data.unreadable import Unreadable
from imagetok.indices import spread
from imagetok.progress import ProgressBar

LOOKED_AT = 10_000
"""Number of files that are looked at unless another is asked for."""
_THREADS = 16  # more than cores, because disks and networks answer slowly
_PIECE = 64


@dataclass(frozen=True)
class Headers:
    """The headers of the files of a dataset, and the files that are damaged."""

    total: int
    """Number of images in the dataset."""
    found: Mapping[int, ImageHeader]
    """Header of each sound file that was looked at, by the image's index."""
    damaged: tuple[Unreadable, ...]
    """Files that are missing or damaged, as far as the header and the end of the file show it, or
    whatever else is known (`without`)."""

    @property
    def looked_at(self) -> int:
        """Number of files that were looked at; 0 for a dataset without files."""
        return len(self.found) + len(self.damaged)

    @property
    def is_whole(self) -> bool:
        """Whether every file was looked at."""
        return self.looked_at == self.total

    def without(self, unreadable: Iterable[Unreadable]) -> "Headers":
        """Return what was found if these images, whose headers may be sound, are damaged too."""
        damaged = {image.index: image for image in (*unreadable, *self.damaged)}
        return replace(
            self,
            found={i: header for i, header in self.found.items() if i not in damaged},
            damaged=tuple(damaged[index] for index in sorted(damaged)),
        )


def look_at(dataset: ImageDataset, *, limit: int | None = LOOKED_AT) -> Headers:
    """Read the headers of a dataset's files, and list the damaged ones.

    >>> found = look_at(imagetok.data.open_images(config.data, "all", contract))
    >>> found.total, len(found.damaged), found.found[0].width

    limit: number of files to look at, evenly spread over the dataset; None: all. The headers of
    sound files are kept in a cache until a file's size or time changes. Images that are in no file
    (digits, arrays, ...) are not looked at. A file may pass and still fail to decode.
    """
    chosen = spread(len(dataset), len(dataset) if limit is None else limit)
    found: dict[int, ImageHeader] = {}
    damaged: list[Unreadable] = []
    with (
        HeaderCache(len(chosen)) as cache,
        ProgressBar("looking at files", len(chosen)) as progress,
    ):
        for piece, headers in _in_parallel(dataset, chosen, cache):
            for index, header in zip(piece, headers, strict=True):
                if isinstance(header, ImageHeader):
                    found[index] = header
                elif header is not None:
                    damaged.append(header)
            progress.update(piece[-1] * len(chosen) // len(dataset) + 1)
    return Headers(len(dataset), found, tuple(damaged))


def _in_parallel(
    dataset: ImageDataset, chosen: Sequence[int], cache: HeaderCache
) -> Iterator[tuple[Sequence[int], list[ImageHeader | Unreadable | None]]]:
    """Yield pieces of the chosen indices in order, with what was found in each."""
    pieces = [chosen[start : start + _PIECE] for start in range(0, len(chosen), _PIECE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            looks = pool.map(lambda piece: [_look(dataset, i, cache) for i in piece], pieces)
            yield from zip(pieces, looks, strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _look(dataset: ImageDataset, index: int, cache: HeaderCache) -> ImageHeader | Unreadable | None:
    file = dataset.file_of(index)
    name = "" if file is None else os.path.abspath(dataset.path_of(index))  # noqa: PTH100
    known = None if file is None else cache.get(name, file)
    if known is not None:
        return known
    try:
        header = dataset.header(index)
    except ImageError as error:
        return Unreadable(index, error.path or dataset.path_of(index), error.reason)
    if header is not None and file is not None:
        cache.put(name, file, header)
    return header
