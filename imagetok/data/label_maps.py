"""Images and their label maps in two folders, paired by file name; label maps without classes."""

from contextlib import suppress
from pathlib import Path, PurePosixPath

from imagetok.data.base import ImageDataset
from imagetok.data.compressed_images import FileImages
from imagetok.data.config import MasksConfig
from imagetok.data.folder import list_images, open_folder
from imagetok.data.image_decoding import ImageError
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.suggestions import all_of

_SHOWN = 10


def check_classes(dataset: ImageDataset) -> None:
    """Raise InputError if no pixel of all label maps of a dataset has a class.

    Maps are read until one has; any that cannot be read is passed over.
    """
    ignore = dataset.contract.ignore
    if ignore is None:
        return
    for index in range(len(dataset)):
        with suppress(ImageError):
            if bool((dataset.read([index]).images != ignore).any()):
                return
    raise without_classes(dataset)


def without_classes(dataset: ImageDataset) -> InputError:
    """Return the refusal of label maps in which no pixel has a class."""
    image = dataset.contract
    return InputError(
        f"{dataset.name}:{dataset.split}: expected pixels of the classes 0 to "
        f"{(image.num_classes or 1) - 1}, found only {image.ignore}, which image.ignore leaves "
        f"out, in {all_of(len(dataset), 'label map')}; choose other label maps, or check "
        "image.ignore"
    )


def open_masks(config: MasksConfig, split: str, contract: ImageContract) -> FileImages:
    """Open one side of each pair: the masks for a contract of label maps, otherwise the images.

    Order, splits and labels are always those of the folder of images, so that codes of images and
    codes of masks have the same source indices. `a/12.jpg` and `a/12.png` are a pair.
    Raises InputError that lists images without a mask, masks without an image, or names that occur
    twice in one folder.
    """
    everything = open_folder(config.images, "all", contract, holdout=config.holdout)
    chosen = open_folder(config.images, split, contract, holdout=config.holdout)
    root = Path(config.masks).expanduser()
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder of masks, found no folder; check masks=")
    images, masks = _by_stem(everything.root, everything.files), _by_stem(root, list_images(root))
    lonely = [f"{everything.root / images[stem]} has no mask" for stem in images.keys() - masks]
    lonely += [f"{root / masks[stem]} has no image" for stem in masks.keys() - images]
    if lonely:
        shown = "".join(f"\n  {line}" for line in sorted(lonely)[:_SHOWN])
        more = f"\n  and {len(lonely) - _SHOWN} more" if len(lonely) > _SHOWN else ""
        raise InputError(
            f"{everything.root} and {root}: expected files in pairs of the same name, found"
            f"{shown}{more}\n"
            "move these files away, or use only one of the folders, as `folder,root=FOLDER`"
        )
    is_masks = contract.mode == "labels"
    return FileImages(
        root if is_masks else chosen.root,
        [masks[_name_without_ending(file)] for file in chosen.files] if is_masks else chosen.files,
        name="masks",
        split=split,
        contract=contract,
        labels=chosen.labels,
        class_names=chosen.class_names,
    )


def _name_without_ending(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(""))


def _by_stem(root: Path, files: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in files:
        other = found.setdefault(_name_without_ending(file), file)
        if other != file:
            raise InputError(
                f"{root}: expected one file per name, found {other} and {file}; move one away"
            )
    return found
