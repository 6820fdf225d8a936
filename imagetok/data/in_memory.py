"""Images in the caller's memory: arrays, PIL images, or the items of the caller's own Dataset."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset
from imagetok.data.image_decoding import ImageError, apply_exif_orientation
from imagetok.data.preprocessing import preprocess, to_array
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract, ImageSize
from imagetok.suggestions import shown

_CHANNELS = (1, 3, 4)
_OVERSHOOT = 1e-2  # resampled floats may leave [0, 1] by this; a wrong range does by far more
IDENTITY_SAMPLE = 64
"""Number of items of a Dataset that its identity covers."""


@runtime_checkable
class ItemSource(Protocol):
    """Anything with a length and integer indexing: a list, an array, a map-style Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class ImageItem(NamedTuple):
    """One image in its original size, and its label."""

    pixels: np.ndarray
    """uint8 array, (H, W) for a grey image or a label map, else (H, W, 3)."""
    label: int
    """Class index, or -1 for none."""


@final
class ItemImages(ImageDataset):
    """The items of a list, array or Dataset, preprocessed like image files.

    An item is an image, or a tuple or list that starts with an image and its label. An image is a
    PIL image, an array or a tensor; see `pixels_of`. An item that cannot be read, or for which the
    Dataset's own code fails, raises ImageError, which `encode` counts like an unreadable file.
    """

    def __init__(
        self,
        items: ItemSource,
        *,
        name: str,
        contract: ImageContract,
        class_names: tuple[str, ...] = (),
        identity: str | None = None,
        is_sampled: bool = False,
    ):
        """Wrap `items`.

        identity: text chosen by the caller, see `identity()`. is_sampled: compute the identity from
        some of the items, not from all.
        """
        self.items = items
        self.name = name
        self.split = "all"
        self.contract = contract
        self.class_names = class_names
        self._numbers = {name: number for number, name in enumerate(class_names)}
        self._identity = identity
        self._is_sampled = is_sampled
        self._lock = threading.Lock()  # the encoder reads from several threads

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())  # a lock is of one process

    def __len__(self) -> int:
        return len(self.items)

    def identity(self) -> str:
        """Return a hash of all pixels (before resizing) and labels.

        For a Dataset it covers the class, the length, the class names and `IDENTITY_SAMPLE` items
        spread over it; or the caller's identity, the length and the class names. Raises
        ConfigError when an item differs between two reads, as with random augmentation.
        """
        content: list[object] = [len(self), list(self.class_names)]
        if self._identity is not None:
            return _sha256(["given", self._identity, *content])
        if not self._is_sampled:
            return _sha256(["images", *content, *map(self._hash, range(len(self)))])
        count = min(IDENTITY_SAMPLE, len(self))
        chosen = [i * len(self) // count for i in range(count)]
        hashes = [self._hash(i) for i in chosen]
        if chosen and self._hash(chosen[-1]) != hashes[-1]:
            raise ConfigError(
                f"{self.path_of(chosen[-1])}: expected the same image each time it is read, found "
                "two different ones; switch off random augmentation, or pass an identity for the "
                'Dataset: identity="..."'
            )
        return _sha256(["dataset", self.name, *content, *hashes])

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """Return the images at `indices`; raises ImageError for the first that is unreadable."""
        self.check_indices(indices)
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        images, labels = torch.empty(shape, dtype=torch.uint8), []
        for position, index in enumerate(indices):
            item = self._item(index)
            try:
                images[position] = preprocess(item.pixels, self.contract)
            except InputError as error:  # a class outside the contract's num_classes
                where = self.path_of(index)
                raise ImageError(f"{where}: {error}", where, "unknown_class") from None
            labels.append(item.label)
        return ImageBatch(images, torch.tensor(labels, dtype=torch.int64), torch.tensor(indices))

    def native_size(self, index: int) -> ImageSize:
        """Return (height, width) of the pixels of an item."""
        height, width = self._item(index).pixels.shape[:2]
        return height, width

    def _hash(self, index: int) -> str:
        try:
            pixels, label = self._item(index)
        except ImageError as error:
            return error.reason
        digest = hashlib.sha256(canonical_json([*pixels.shape, label]))
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()

    def _item(self, index: int) -> ImageItem:
        where = self.path_of(index)
        try:
            with self._lock:
                image, label = split_item(self.items[index])
                pixels = pixels_of(image, self.contract.mode == "labels")
        except (ImageError, MemoryError):
            raise
        except InputError as error:
            raise ImageError(f"{where}: {error}", where, "unsupported_mode") from None
        except Exception as error:  # the caller's code may raise anything
            message = f"{where}: {type(error).__name__}: {error}"
            raise ImageError(message, where, "unreadable") from None
        if not self.class_names or label is None:
            return ImageItem(pixels, NO_LABEL)
        number = self._numbers.get(label) if isinstance(label, str) else label
        if number is None or not NO_LABEL <= number < len(self.class_names):
            raise ImageError(
                f"{where}: expected a label in [0, {len(self.class_names)}), -1 for none, or the "
                f"name of a class, found {shown(label)}",
                where,
                "unknown_class",
            )
        return ImageItem(pixels, number)


def split_item(item: Any) -> tuple[Any, int | str | None]:
    """Return the image of an item and its label: a whole number, a text, or None.

    A float such as 3.0 is a whole number; NaN and everything else is no label.
    """
    if not isinstance(item, tuple | list):
        return item, None
    image, label = (*item, None, None)[:2]
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.tolist()  # a number, for arrays without axes
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return image, label if isinstance(label, int | str) and not isinstance(label, bool) else None


def pixels_of(image: Any, as_labels: bool = False) -> np.ndarray:
    """Convert an image to uint8 pixels: (H, W) if it is grey or a label map, else (H, W, 3).

    image: a PIL image, which is rotated by its EXIF orientation as files are; an array of shape
    (H, W), (H, W, C) or else (C, H, W); or a tensor of shape (H, W), (C, H, W) or else (H, W, C).
    C is 1 (grey), 3 (RGB) or 4 (RGBA, blended onto white). Pixels are uint8, or floating point in
    [0, 1]; label maps hold integers in [0, 256) and have no channels. as_labels: return the classes
    of a label map. Raises InputError for any other type, shape or range.
    """
    if isinstance(image, Image.Image):
        return to_array(apply_exif_orientation(image), as_labels)
    if isinstance(image, Tensor):
        # numpy has no bfloat16.
        cpu = image.detach().cpu()
        array, axes = (cpu.float() if cpu.is_floating_point() else cpu).numpy(), (0, 2)
    elif isinstance(image, np.ndarray):
        array, axes = image, (2, 0)
    else:
        raise InputError(
            "expected a PIL image, an array or a tensor, found "
            f"{type(image).__module__}.{type(image).__qualname__}"
        )
    array = _channels_last(array, axes)
    if 0 in array.shape:
        raise InputError(f"expected at least one pixel, found shape {array.shape}")
    return _classes(array) if as_labels else _bytes(array)


def _channels_last(array: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Return an array as (H, W) or (H, W, C); axes: axes to try for the channels, in order."""
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        for axis in axes:
            if array.shape[axis] in _CHANNELS:
                last = np.moveaxis(array, axis, -1)
                return last[..., 0] if last.shape[-1] == 1 else last
    raise InputError(
        f"expected pixels of shape (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4, found "
        f"{array.shape}"
    )


def _bytes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # also refuses NaN
            raise InputError(
                f"expected floating point pixels in [0, 1], found [{low:g}, {high:g}]; divide "
                "pixels in 0..255 by 255, and undo any other normalisation"
            )
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(
            f"expected uint8 pixels, or floating point in [0, 1], found {array.dtype}; "
            "convert integers in 0..255 to uint8"
        )
    if array.ndim == 3 and array.shape[-1] == 4:
        return to_array(Image.fromarray(np.ascontiguousarray(array)))
    return array


def _classes(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(
            f"expected a label map, one integer per pixel, found {array.dtype} of shape "
            f"{array.shape}"
        )
    if int(array.min()) < 0 or int(array.max()) > 255:
        raise InputError(
            f"expected classes in [0, 256), found [{int(array.min())}, {int(array.max())}]"
        )
    return array.astype(np.uint8)


def _sha256(content: list[object]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
