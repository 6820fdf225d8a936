"""Any folder of image files as a dataset: flat, or a subfolder a class, with or without splits."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn, final

import torch
from jaxtyping import UInt8
from torch import Tensor

from imagetok.data.base import NO_LABEL, ImageBatch, ImageDataset
from imagetok.data.open import ImageError, open_image
from imagetok.data.transforms import prepare
from imagetok.durable import canonical_json
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.seeding import generator

EXTENSIONS = frozenset(
    [".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)


@final
class FolderImages(ImageDataset):
    """Image files, opened when they are read."""

    def __init__(
        self,
        root: Path,
        files: list[str],
        *,
        split: str,
        contract: ImageContract,
        labels: list[int] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        """files: paths below `root`; labels: one a file, none if unlabelled."""
        self.name = "folder"
        self.root = root
        self.files = files
        self.split = split
        self.contract = contract
        self.class_names = class_names
        self._labels = [NO_LABEL] * len(files) if labels is None else labels

    def __len__(self) -> int:
        return len(self.files)

    def identity(self) -> str:
        """Of the files' paths below the root, their sizes and labels."""
        sizes = [(self.root / file).stat().st_size for file in self.files]
        content = list(zip(self.files, sizes, self._labels, strict=True))
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def read(self, indices: Sequence[int]) -> ImageBatch:
        """The images at `indices`; raises ImageError at the first that cannot be read."""
        self.check_indices(indices)
        shape = (len(indices), self.contract.channels, self.contract.height, self.contract.width)
        images = torch.empty(shape, dtype=torch.uint8)
        for position, index in enumerate(indices):
            images[position] = self._open(self.root / self.files[index])
        labels = torch.tensor([self._labels[i] for i in indices], dtype=torch.int64)
        return ImageBatch(images, labels, torch.tensor(indices, dtype=torch.int64))

    def _open(self, path: Path) -> UInt8[Tensor, "C H W"]:
        pixels = open_image(path, as_labels=self.contract.mode == "labels")
        try:
            return prepare(pixels, self.contract)
        except InputError as error:  # a class that the contract does not have
            raise ImageError(f"{path}: {error}", str(path), "unknown_class") from None

    def path_of(self, index: int) -> str:
        """The path of one file, as it was found below the root."""
        return str(self.root / self.files[index])


def open_folder(root: str, split: str, contract: ImageContract, *, holdout: float) -> FolderImages:
    """The images below `root`, sorted by path.

    If `root` has train/ and test/ or val/, these are the splits (test is val/ where there is no
    test/). Otherwise split test is the share `holdout` of all images, train the rest. The labels
    are the sorted names of the subfolders, over all splits; if images lie beside the subfolders,
    or there are none, the folder is unlabelled.
    Raises InputError if the folder or its images are missing, ConfigError for an unknown split.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "something else" if folder.exists() else "nothing there"
        raise InputError(f"{folder}: expected a folder of images, found {found}; check the path")
    parts = _parts(folder)
    known = [*(parts or ("train", "test")), "all"]
    if split not in known:
        raise ConfigError(
            f"{folder}: expected one of the splits {', '.join(known)}; found {split!r}"
        )
    below = {part: list_images(folder / part) for part in dict.fromkeys(parts.values() or [""])}
    class_names = _classes([file for files in below.values() for file in files])
    chosen = below if split == "all" or not parts else {parts[split]: below[parts[split]]}
    files = [(part, file) for part, names in chosen.items() for file in names]
    if not files:
        raise InputError(
            f"{folder}: expected images in split {split!r}, found no file that ends in "
            f"{', '.join(sorted(EXTENSIONS))}; check the path"
        )
    if not parts and split != "all":
        files = _held_out(files, split, holdout, folder)
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = [label_of[file.split("/")[0]] for _, file in files] if class_names else None
    paths = [str(PurePosixPath(part, file)) for part, file in files]
    return FolderImages(
        folder, paths, split=split, contract=contract, labels=labels, class_names=class_names
    )


def list_images(folder: Path) -> list[str]:
    """Paths of all image files below a folder, relative to it, sorted.

    Hidden ones are left out; links are followed, but no folder is entered twice.
    """
    files: list[str] = []
    seen: set[str] = set()
    for current, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link to a folder above would never end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = PurePosixPath(Path(current).relative_to(folder).as_posix())
        files += [str(below / name) for name in names if _is_image(name)]
    return sorted(files)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in EXTENSIONS


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot list the folder: {error.strerror}") from None


def _parts(folder: Path) -> dict[str, str]:
    """Split to subfolder, if the folder is laid out in splits."""
    parts = {name: name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in parts or len(parts) == 1:
        return {}
    return {**parts, "test": parts.get("test", "val")}


def _classes(files: list[str]) -> tuple[str, ...]:
    if any("/" not in file for file in files):
        return ()
    return tuple(sorted({file.split("/")[0] for file in files}))


def _held_out(
    files: list[tuple[str, str]], split: str, holdout: float, folder: Path
) -> list[tuple[str, str]]:
    """The files of split train or test, in order; each gets at least one."""
    if len(files) < 2:
        raise InputError(
            f"{folder}: expected at least 2 images to hold some out for testing, "
            f"found {len(files)}; use split all"
        )
    num_test = min(max(1, round(len(files) * holdout)), len(files) - 1)
    order = torch.randperm(len(files), generator=generator(0, "folder split")).tolist()
    chosen = order[:num_test] if split == "test" else order[num_test:]
    return [files[i] for i in sorted(chosen)]
