"""Kaokore and CelebA, from the files that their authors distribute."""

import logging
from pathlib import Path

from imagetok.data.compressed_images import FileImages, is_file
from imagetok.data.config import CelebAConfig, KaokoreConfig
from imagetok.data.labels_and_splits import split_of
from imagetok.data.table import check_columns, read_table, read_text, refuse_rows
from imagetok.errors import InputError
from imagetok.images import ImageContract

logger = logging.getLogger("imagetok")
_KAOKORE_CLASSES = {
    "gender": ("male", "female"),
    "status": ("noble", "warrior", "incarnation", "commoner"),
}
_CELEBA_SPLITS = {"0": "train", "1": "val", "2": "test"}


def open_kaokore(config: KaokoreConfig, split: str, contract: ImageContract) -> FileImages:
    """Open the labelled faces of Kaokore (Tian et al. 2020), in the order of labels.csv.

    As in the official loader, rows whose image was not downloaded are left out; their number is
    logged. Raises InputError if files are missing or labels.csv has wrong rows.
    """
    root = Path(config.root).expanduser()
    path = root / "labels.csv"
    if not path.is_file():
        raise InputError(
            f"kaokore: expected {path}, found nothing; run `python download.py --dataset_version "
            f"1.2 --dir {root}` of github.com/rois-codh/kaokore"
        )
    rows = read_table(path)
    check_columns(path, rows, ["image", config.label, "set"])
    classes = _KAOKORE_CLASSES[config.label]
    known = {str(label) for label in range(len(classes))}
    faults = []
    for line, values in rows:
        if values[config.label] not in known or split_of(values["set"]) is None:
            faults.append(
                f"line {line}: expected a {config.label} and a set of Kaokore, found "
                f"{values[config.label]!r} and {values['set']!r}"
            )
    refuse_rows(path, faults, len(rows))
    values = [r.values for r in rows if split in ("all", split_of(r.values["set"]))]
    there = [v for v in values if is_file(root / "images_256" / v["image"])]
    if not there:
        raise InputError(
            f"kaokore: expected the images of split {split} in {root / 'images_256'}, found none; "
            "run download.py of github.com/rois-codh/kaokore again"
        )
    if len(there) < len(values):
        missing = len(values) - len(there)
        logger.warning("kaokore: left out %d missing of %d images", missing, len(values))
    return FileImages(
        root / "images_256",
        [v["image"] for v in there],
        name="kaokore",
        split=split,
        contract=contract,
        labels=[int(v[config.label]) for v in there],
        class_names=classes,
    )


def open_celeba(config: CelebAConfig, split: str, contract: ImageContract) -> FileImages:
    """Open the aligned faces of CelebA (Liu et al. 2015), without attributes.

    The files are those that torchvision uses. Raises InputError if any are missing or damaged.
    """
    root = Path(config.root).expanduser() / "celeba"
    path, images = root / "list_eval_partition.txt", root / "img_align_celeba"
    if not (path.is_file() and images.is_dir()):
        raise InputError(
            f"celeba: expected {path.name} and {images.name}/ in {root}, found "
            f"{'only one of them' if path.exists() or images.exists() else 'neither'}; download "
            "both from mmlab.ie.cuhk.edu.hk/projects/CelebA.html and unpack them there"
        )
    files, faults, count = [], [], 0
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        count += 1
        file, _, part = text.strip().partition(" ")
        if part.strip() not in _CELEBA_SPLITS:
            faults.append(f"line {line}: expected an image and 0, 1 or 2, found {text[:80]!r}")
        elif split in ("all", _CELEBA_SPLITS[part.strip()]):
            if is_file(images / file):
                files.append(file)
            else:
                faults.append(f"line {line}: no such image: {images / file}")
    refuse_rows(path, faults, count)
    if not files:
        raise InputError(f"{path}: expected images in split {split!r}, found none")
    return FileImages(images, files, name="celeba", split=split, contract=contract)
