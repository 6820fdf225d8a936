"""Folders of image files as datasets: flat or one subfolder per class, with or without splits."""

import os
from pathlib import Path, PurePosixPath
from typing import NoReturn

from imagetok.data.compressed_images import FileImages
from imagetok.data.labels_and_splits import split_indices
from imagetok.errors import ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.suggestions import did_you_mean

EXTENSIONS = frozenset(
    [".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
)


def open_folder(root: str, split: str, contract: ImageContract, *, holdout: float) -> FileImages:
    """Open the images below `root`, sorted by path.

    If `root` has train/ and also test/ or val/, these are the splits (test is val/ if there is no
    test/). Otherwise split test is the fraction `holdout` of all images, and train is the rest. The
    labels are the sorted names of the subfolders over all splits; if there are images beside the
    subfolders, or no subfolders, the folder is unlabelled.
    Raises InputError if the folder or its images are missing, ConfigError for an unknown split.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise InputError(f"{folder}: expected a folder of images, found {found}; check the path")
    parts = _parts(folder)
    known = [*(parts or ("train", "test")), "all"]
    if split not in known:
        raise ConfigError(
            f"{folder}: expected one of the splits {', '.join(known)}; "
            f"found {split!r}{did_you_mean(split, known)}"
        )
    below = {part: list_images(folder / part) for part in dict.fromkeys(parts.values() or [""])}
    class_names = _classes([file for files in below.values() for file in files])
    chosen = below if split == "all" or not parts else {parts[split]: below[parts[split]]}
    files = [(part, file) for part, names in chosen.items() for file in names]
    if not files:
        raise InputError(
            f"{folder}: expected images in split {split!r}, found no file with one of the endings "
            f"{', '.join(sorted(EXTENSIONS))}; check the path"
        )
    if not parts and split != "all":
        files = [files[i] for i in split_indices(len(files), split, holdout, str(folder))]
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = [label_of[file.split("/")[0]] for _, file in files] if class_names else None
    paths = [str(PurePosixPath(part, file)) for part, file in files]
    return FileImages(
        folder,
        paths,
        name="folder",
        split=split,
        contract=contract,
        labels=labels,
        class_names=class_names,
    )


def list_images(folder: Path) -> list[str]:
    """Return the paths of all image files below a folder, relative to it and sorted.

    Hidden files and folders are left out. Symbolic links are followed, but no folder is visited
    twice. Raises InputError for a folder that cannot be listed.
    """
    files: list[str] = []
    seen: set[str] = set()
    for current, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link to a parent folder would recurse without end
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
    """Return the subfolder of each split; empty if the folder is not divided into splits."""
    parts = {name: name for name in ("train", "val", "test") if (folder / name).is_dir()}
    if "train" not in parts or len(parts) == 1:
        return {}
    return {**parts, "test": parts.get("test", "val")}


def _classes(files: list[str]) -> tuple[str, ...]:
    if any("/" not in file for file in files):
        return ()
    return tuple(sorted({file.split("/")[0] for file in files}))
