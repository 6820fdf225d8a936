"""Generated images as a dataset: a folder that `imagetok sample` wrote, or any other."""

import re
from pathlib import Path

from imagetok.data.base import ImageDataset
from imagetok.data.compressed_images import FileImages
from imagetok.data.folder import list_images, open_folder
from imagetok.data.npz_images import RECORD, NpzImages, class_names_in
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.io.json_files import read_json
from imagetok.suggestions import counted

_NUMBERED = re.compile(r"\d{6,}\.png")


def open_samples(folder: Path, contract: ImageContract) -> ImageDataset:
    """Open the numbered images of `imagetok sample` with their classes, or any folder of images.

    A file is opened as an npz file of images; see `NpzImages`.

    Raises InputError when there are no images, or fewer than `samples.json` states.
    """
    if folder.is_file():
        return NpzImages(folder, contract)
    if (folder / "completions.json").is_file():
        raise InputError(
            f"{folder}: expected samples, found completions, which keep parts of real images; pass "
            "a folder that `imagetok sample` wrote"
        )
    record = folder / RECORD
    if not record.is_file():
        return open_folder(str(folder), "all", contract, holdout=0.1)
    files = sorted(
        (name for name in list_images(folder) if _NUMBERED.fullmatch(name)),
        key=lambda name: int(Path(name).stem),
    )
    try:
        content = read_json(record)
        count, asked = content["num_images"], content["labels"]
        if not all(type(number) is int for number in (count, *asked)):
            raise TypeError("expected whole numbers")
        class_names = class_names_in(content)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{record}: not a record of `imagetok sample`, or damaged: {error!r}"
        ) from None
    if len(files) != count or not asked:
        raise InputError(
            f"{folder}: expected {counted(count, 'numbered image')}, found {len(files)}; run the "
            "same `imagetok sample` command again to finish it"
        )
    labels = [asked[i % len(asked)] for i in range(count)]
    return FileImages(
        folder,
        files,
        name="samples",
        split="all",
        contract=contract,
        labels=labels,
        class_names=class_names,
    )
