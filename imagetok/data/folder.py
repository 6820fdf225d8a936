"""Folders of image files as datasets: flat or one subfolder per class, with or without splits."""

import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NoReturn

from imagetok.data.base import NO_LABEL
from imagetok.data.compressed_images import FileImages
from imagetok.data.file_formats import is_image_name
from imagetok.data.labels_and_splits import named_splits, split_members
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.suggestions import are, counted, shown

logger = logging.getLogger("imagetok")
_SHOWN = 5
_LIKELY_SPLIT = re.compile(
    r"(train(ing)?|val(id|idation)?|test(ing)?)[-_ ]?(set|data|images|split|\d+)", re.IGNORECASE
)
_REMEDY = "rename one, or name the folders of the splits with train=NAME and test=NAME"


def open_folder(
    root: str,
    split: str,
    contract: ImageContract,
    *,
    holdout: float,
    train: str = "",
    test: str = "",
) -> FileImages:
    """Open the images below `root`, sorted by path.

    Subfolders that are named as splits (see `split_of`) are the splits; `train` and `test` name
    others, or the rest of the folder is train. Split test is val if there is no test; without
    either, the fraction `holdout` of train is test, and the others are train. The labels are the
    sorted names of the subfolders over all splits. Images beside the subfolders have no label; if
    they are half of all images or more, the folder is unlabelled. Both are warned of.
    Raises InputError if the folder or its images are missing, or if subfolders may be splits or
    classes, ConfigError for an unknown split.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise InputError(f"{folder}: expected a folder of images, found {found}; check the path")
    parts = _given_parts(folder, train, test) if train or test else _parts(folder)
    files: list[tuple[str, str]] = []
    members: dict[str, range] = {}
    for part, name in parts.items():
        inside = posixpath.relpath(test or "..", name) + "/"  # of train, may hold that of test
        found = [file for file in list_images(folder / name) if not file.startswith(inside)]
        files += [(name, file) for file in found]
        members[part] = range(sum(map(len, members.values())), len(files))
    class_names = _classes([file for _, file in files])
    chosen = split_members(members, split, holdout, str(folder)) if files else []
    if not chosen:
        raise InputError(
            f"{folder}: expected images in split {split!r}, found none{_others(folder)}; check the "
            "path, and that the files have the ending of their format, such as .jpg"
        )
    _warn_of_strays(folder, files, class_names)
    files = [files[i] for i in chosen]
    label_of = {name: label for label, name in enumerate(class_names)}
    labels = [label_of.get(file.split("/")[0], NO_LABEL) for _, file in files]
    paths = [str(PurePosixPath(part, file)) for part, file in files]
    return FileImages(
        folder,
        paths,
        name="folder",
        split=split,
        contract=contract,
        labels=labels if class_names else None,
        class_names=class_names,
    )


def list_images(folder: Path) -> list[str]:
    """Return the paths of all image files below a folder, relative to it and sorted.

    These are the files whose ending is that of an image, also of one that imagetok does not read,
    which is then counted as unreadable; see `is_image_name`. Hidden files and folders are left out.
    Symbolic links are followed, but no folder is visited twice. Raises InputError for a folder that
    cannot be listed.
    """
    return sorted(file for file in _files(folder) if is_image_name(file))


def _files(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below a folder that are not hidden, relative to it."""
    seen: set[str] = set()
    for current, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:  # a link to a parent folder would recurse without end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = PurePosixPath(Path(current).relative_to(folder).as_posix())
        yield from (str(below / name) for name in names if not name.startswith("."))


def _others(folder: Path) -> str:
    """Return what files a folder holds, by ending, for messages; "" if it is empty."""
    endings = Counter(PurePosixPath(file).suffix.lower() for file in _files(folder))
    found = [f"{count:,} {end or 'without one'}" for end, count in endings.most_common(_SHOWN)]
    more = ", ..." if len(endings) > _SHOWN else ""
    return f" among its files ({', '.join(found)}{more})" if found else ""


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"{error.filename}: cannot list the folder: {error.strerror}") from None


def _given_parts(folder: Path, train: str, test: str) -> dict[str, str]:
    """Return the subfolder of each split that the config names."""
    parts = {"train": train or ".", "test": test} if test else {"train": train}
    for key, name in parts.items():
        if not (folder / name).is_dir():
            raise InputError(f"{folder / name}: expected the folder of {key}=, found no folder")
    return parts


def _parts(folder: Path) -> dict[str, str]:
    """Return the subfolder of each split; the whole folder as `train` if it has no splits.

    A folder that is named as a split, beside folders of images that are not, is refused, unless
    train and a held-out split are both there.
    """
    subfolders = sorted(p.name for p in _entries(folder) if _is_folder(p) and p.name[0] != ".")
    parts = named_splits(subfolders, str(folder), _REMEDY)
    others = [name for name in subfolders if name not in parts.values()]
    whole = {"train": "."}
    if not parts:
        _warn_of_likely_splits(folder, others)
        return whole
    if "train" in parts and len(parts) > 1:
        _warn_of_left_out(folder, others)
        return {split: parts[split] for split in ("train", "val", "test") if split in parts}
    beside = [name for name in others if list_images(folder / name)]
    beside += [p.name for p in _entries(folder) if is_image_name(p.name) and not _is_folder(p)]
    if not beside:
        return parts
    if parts == {"train": "train"} and _is_flat(folder, subfolders):
        _warn_of_likely_splits(folder, others)
        return whole  # a class of vehicles beside others
    found = ", ".join(f"{name}/" for name in parts.values())
    raise InputError(
        f"{folder}: expected either splits or classes, found {found}, named as a split, beside "
        f"{', '.join(map(shown, beside[:3]))}{', ...' if len(beside) > 3 else ''}; {_REMEDY}, or "
        "train=. if all of them are classes"
    )


def _is_flat(folder: Path, subfolders: list[str]) -> bool:
    """Return whether all images lie directly in subfolders, none beside or further below."""
    files = [f"{name}/{file}" for name in subfolders for file in list_images(folder / name)]
    files += [p.name for p in _entries(folder) if is_image_name(p.name) and not _is_folder(p)]
    return all(file.count("/") == 1 for file in files)


def _warn_of_likely_splits(folder: Path, classes: Sequence[str]) -> None:
    """Warn if folders that are read as classes have names such as test1, val2017 or test_set."""
    likely = [name for name in classes if _LIKELY_SPLIT.fullmatch(name)]
    if likely:
        logger.warning(
            "%s: %s %s read as %s of images, by the name; if they are splits, name them with "
            "train=NAME and test=NAME",
            *(folder, ", ".join(map(shown, likely[:_SHOWN])), "are" if len(likely) > 1 else "is"),
            "classes" if len(likely) > 1 else "a class",
        )


def _warn_of_left_out(folder: Path, others: list[str]) -> None:
    count = sum(len(list_images(folder / name)) for name in others)
    count += sum(is_image_name(p.name) and not _is_folder(p) for p in _entries(folder))
    if count:
        _warn_once(
            f"{folder}: {counted(count, 'image')} beside the folders of its splits {are(count)} "
            "left out"
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        _refuse(error)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; False for a link to itself, which is none."""
    return os.path.isdir(entry.path)  # noqa: PTH112


def _classes(files: list[str]) -> tuple[str, ...]:
    """Return the subfolders as class names; none if half of the images or more lie beside them."""
    if 2 * sum("/" not in file for file in files) >= len(files):
        return ()
    return tuple(sorted({file.split("/")[0] for file in files if "/" in file}))


def _warn_of_strays(folder: Path, files: list[tuple[str, str]], class_names: Sequence[str]) -> None:
    """Warn if some images lie in subfolders and others beside them.

    files: (part, path in the part) of all images.
    """
    beside = [str(folder / part / file) for part, file in files if "/" not in file]
    if not beside or (len(beside) == len(files) and not class_names):
        return
    if class_names:
        said = "beside the folders of classes and without a label"
    else:
        said = "beside the folders of the others, so that no image has a label"
    count = f"{len(beside):,} of {counted(len(files), 'image')} {are(len(beside))}"
    first = ", ".join(beside[:3]) + (", ..." if len(beside) > 3 else "")
    _warn_once(f"{folder}: {count} {said}: {first}")


@cache
def _warn_once(message: str) -> None:
    """Log a warning that is the same for all splits, of which a command opens several."""
    logger.warning("%s", message)
