"""Images that callers hold: arrays, PIL images, or the items of a Dataset of their own."""

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
from imagetok.images import ImageContract

_CHANNELS = (1, 3, 4)
_OVERSHOOT = 1e-2  # of floats that were resampled; a wrong range is off by far more
IDENTITY_SAMPLE = 64
"""Items of a Dataset that its identity is made of."""


@runtime_checkable
class ItemSource(Protocol):
    """What can be read by index: a list, an array, a map-style Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class ImageItem(NamedTuple):
    """One image as it was given, in one form, and its label."""

    pixels: np.ndarray
    """uint8, (H, W) of a grey image or a label map, else (H, W, 3)."""
    label: int


@final
class ItemImages(ImageDataset):
    """Items, brought to a contract as files are.

    An item is an image, or a tuple or list that begins with an image and its label. An image is a
    PIL image, an array or a tensor; see `pixels_of`. Whatever cannot be read, or fails in the
    Dataset's own code, is an ImageError, which `encode` counts as it counts unreadable files.
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
        """identity: given by the caller. is_sampled: identify by some of the items, not by all."""
        self.items = items
        self.name = name
        self.split = "all"
        self.contract = contract
        self.class_names = class_names
        self._identity = identity
        self._is_sampled = is_sampled
        self._lock = threading.Lock()  # the encoder reads from several threads

    def __len__(self) -> int:
        return len(self.items)

    def identity(self) -> str:
        """A hash of all pixels and labels, as they are before they are resized.

        Of a Dataset: of its class, its length, its class names, and `IDENTITY_SAMPLE` items spread
        over it; or of what its caller gave as identity, its length and its class names. Raises
        ConfigError where an item is not the same twice (random augmentation).
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
                "two; read it without random augmentation, or give the Dataset an identity of your "
                'own: identity="..."'
            )
        return _sha256(["dataset", self.name, *content, *hashes])

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`; raises ImageError at the first that cannot be read."""
        self.check_indices(indices)
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        images, labels = torch.empty(shape, dtype=torch.uint8), []
        for position, index in enumerate(indices):
            item = self._item(index)
            try:
                images[position] = preprocess(item.pixels, self.contract)
            except InputError as error:  # a class that the contract does not have
                where = self.path_of(index)
                raise ImageError(f"{where}: {error}", where, "unknown_class") from None
            labels.append(item.label)
        return ImageBatch(images, torch.tensor(labels, dtype=torch.int64), torch.tensor(indices))

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
                given = self.items[index]
                image, label = split_item(given)
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
        if not NO_LABEL <= label < len(self.class_names):
            raise ImageError(
                f"{where}: expected a label in [0, {len(self.class_names)}), or -1 for none, found "
                f"{label}",
                where,
                "unknown_class",
            )
        return ImageItem(pixels, label)


def split_item(item: Any) -> tuple[Any, int | None]:
    """The image of an item, and its label; None where it has none, or none that is a number."""
    if not isinstance(item, tuple | list):
        return item, None
    image, label = (*item, None, None)[:2]
    if isinstance(label, Tensor | np.ndarray | np.generic):
        label = label.tolist()  # a number, of arrays with one value and no axes
    return image, label if isinstance(label, int) and not isinstance(label, bool) else None


def pixels_of(image: Any, as_labels: bool = False) -> np.ndarray:
    """An image as uint8 pixels: (H, W) if it is grey or a label map, else (H, W, 3).

    image: a PIL image, which is turned upright by its EXIF orientation, as a file is; an array,
    (H, W), (H, W, C) or else (C, H, W); or a tensor, (H, W), (C, H, W) or else (H, W, C). C is 1
    (grey), 3 (RGB) or 4 (RGBA, laid over white). Pixels are uint8, or floating point in [0, 1];
    those of label maps are whole numbers in [0, 256), without channels.
    Raises InputError that says what was expected and what was found.
    """
    if isinstance(image, Image.Image):
        return to_array(apply_exif_orientation(image), as_labels)
    if isinstance(image, Tensor):
        # bfloat16 has no counterpart in numpy.
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
    """(H, W) or (H, W, C); axes: where channels may be, the likelier first."""
    if array.ndim == 2:
        return array
    if array.ndim == 3:
        for axis in axes:
            if array.shape[axis] in _CHANNELS:
                last = np.moveaxis(array, axis, -1)
                return last[..., 0] if last.shape[-1] == 1 else last
    raise InputError(
        f"expected pixels of shape (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, found "
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
                "0..255 by 255, and undo any other normalisation"
            )
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(
            f"expected uint8 pixels, or floating point in [0, 1], found {array.dtype}; "
            "for whole numbers 0..255 convert to uint8"
        )
    if array.ndim == 3 and array.shape[-1] == 4:
        return to_array(Image.fromarray(np.ascontiguousarray(array)))
    return array


def _classes(array: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(
            f"expected a label map, one whole number a pixel, found {array.dtype} of shape "
            f"{array.shape}"
        )
    if int(array.min()) < 0 or int(array.max()) > 255:
        raise InputError(
            f"expected classes in [0, 256), found [{int(array.min())}, {int(array.max())}]"
        )
    return array.astype(np.uint8)


def _sha256(content: list[object]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
