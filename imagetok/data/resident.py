"""Training images that are decoded once and kept on the device, and augmented there."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, final, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from imagetok.data.base import ImageBatch, ImageDataset, WholeImages
from imagetok.data.image_decoding import ImageError
from imagetok.errors import ConfigError
from imagetok.processes import process_state, without_waiting
from imagetok.progress import ProgressBar

logger = logging.getLogger("imagetok")
Resident = Literal["auto", "always", "never"]
LIMIT = 4 * 2**30
"""Bytes of decoded images that `auto` keeps on a GPU, if they fit into a quarter of its memory."""
_PIECE = 32


@runtime_checkable
class ChangedImages(Protocol):
    """Images that are changed at random in each epoch."""

    def __len__(self) -> int: ...

    def identity(self) -> str: ...

    def path_of(self, index: int) -> str: ...

    def read_before(self, indices: Sequence[int]) -> WholeImages:
        """Return the images before the changes; raises ImageError for the first unreadable one."""
        ...

    def changed(
        self, before: WholeImages, indices: Sequence[int], epochs: Sequence[int]
    ) -> ImageBatch:
        """Return images as they are in `epochs`, on the device of `before`."""
        ...


@final
class ResidentImages:
    """Images on a device, which are gathered and changed there.

    A batch is the same as that of the source, except for changes that a GPU rounds differently; see
    `imagetok.data.augmented_images.augment`.
    """

    def __init__(
        self,
        source: ImageDataset | ChangedImages,
        images: UInt8[Tensor, "N C H W"],
        labels: Int64[Tensor, " N"],
        unreadable: dict[int, ImageError],
    ):
        """Wrap decoded images.

        images, labels: those of the source before its changes, on one device. unreadable: errors by
        the index of images without pixels.
        """
        self.source = source
        self.images = images
        self.labels = labels
        self.unreadable = unreadable

    def __len__(self) -> int:
        return len(self.source)

    def identity(self) -> str:
        """Return the identity of the source."""
        return self.source.identity()

    def path_of(self, index: int) -> str:
        """Return the path of an image for messages."""
        return self.source.path_of(index)

    def read_at(self, indices: list[int], epochs: list[int]) -> ImageBatch:
        """Return images as they are in `epochs`; raises ImageError for the first unreadable one."""
        for index in indices if self.unreadable else ():
            if index in self.unreadable:
                raise self.unreadable[index]
        rows = without_waiting(torch.tensor(indices), self.images.device)
        images, labels = (t.index_select(0, rows) for t in (self.images, self.labels))
        if isinstance(self.source, ImageDataset):
            return ImageBatch(images, labels, rows)
        return self.source.changed(WholeImages(images, labels), indices, epochs)


def is_wanted_on(device: torch.device, resident: Resident) -> bool:
    """Return whether a setting asks for examples on a device at all."""
    return resident == "always" or (resident == "auto" and device.type == "cuda")


def has_room(device: torch.device, size: int) -> bool:
    """Return whether `auto` keeps so many bytes on a GPU."""
    return size <= min(LIMIT, torch.cuda.mem_get_info(device)[1] // 4)


def make_resident(
    source: ImageDataset | ChangedImages,
    device: torch.device,
    resident: Resident,
    check: Callable[[], None] = lambda: None,
) -> ResidentImages | None:
    """Decode all images to `device`, or return None if they are not to be kept there.

    resident: `never` keeps none, `always` all on any device. `auto` keeps them on a GPU if all have
    one size and they take at most `LIMIT` and a quarter of the GPU's memory. check: called often;
    may raise to stop. Raises ConfigError where `always` is impossible.
    """
    if not is_wanted_on(device, resident):
        return None
    first = _first(source)
    if first is None:
        return _refused(resident, "none of the first images can be read")
    size = len(source) * first.numel()
    if resident == "auto" and not has_room(device, size):
        logger.info(
            "training images are read as they are needed: decoded, they take %d bytes", size
        )
        return None
    try:
        images = torch.empty(len(source), *first.shape, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return _refused(resident, f"there is no room for {size:,} bytes on {device}")
    labels = torch.empty(len(source), dtype=torch.int64)
    unreadable: dict[int, ImageError] = {}
    pieces = [range(i, min(i + _PIECE, len(source))) for i in range(0, len(source), _PIECE)]
    with (
        ThreadPoolExecutor() as pool,
        ProgressBar("decoding", len(source), enabled=process_state().is_main_process) as progress,
    ):
        try:
            decoded = pool.map(lambda piece: _read(source, piece), pieces)
            for piece, found in zip(pieces, decoded, strict=True):
                check()
                for index, part in zip(piece, found, strict=True):
                    if isinstance(part, ImageError):
                        unreadable[index] = part
                        continue
                    image, labels[index] = part
                    if image.shape != first.shape:
                        why = "they have several sizes before augment crops them"
                        return _refused(resident, why)
                    images[index] = image.to(device)
                progress.update(piece.stop)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return ResidentImages(source, images, labels.to(device), unreadable)


def _first(source: ImageDataset | ChangedImages) -> Tensor | None:
    found = _read(source, range(min(_PIECE, len(source))))
    return next((part[0] for part in found if not isinstance(part, ImageError)), None)


def _read(
    source: ImageDataset | ChangedImages, indices: range
) -> list[tuple[Tensor, Tensor] | ImageError]:
    try:
        return list(_parts(source, indices))
    except ImageError:
        pass
    found: list[Any] = []
    for index in indices:
        try:
            found += _parts(source, [index])
        except ImageError as error:
            found.append(error)
    return found


def _parts(
    source: ImageDataset | ChangedImages, indices: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read images before their changes, and their labels."""
    if isinstance(source, ImageDataset):
        images, labels, _ = source.read(indices)
    else:
        images, labels = source.read_before(indices)
    return zip(images, labels, strict=True)


def _refused(resident: Resident, why: str) -> None:
    if resident == "always":
        raise ConfigError(
            f"resident: always: the training images cannot be kept in memory, because {why}; "
            "set resident=auto, which reads them as they are needed"
        )
    logger.info("training images are read as they are needed, because %s", why)
