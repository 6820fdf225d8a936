"""The images of a run: listed when it starts, looked at before it, and what is unreadable."""

import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from accelerate.utils import gather_object

from imagetok.config import Section, load_config
from imagetok.data import ImageDataset, ImageError, open_images
from imagetok.data.compressed_images import CompressedImages
from imagetok.data.headers import LOOKED_AT, look_at
from imagetok.data.label_maps import check_classes
from imagetok.data.listed import ImageList, ListedImages
from imagetok.data.readable import readable
from imagetok.data.substitutes import FilledBatch
from imagetok.data.unreadable import (
    Unreadable,
    allowance_for,
    listed,
    parse_allowance,
    refuse_beyond,
)
from imagetok.durable import canonical_json, write_bytes, write_json
from imagetok.errors import CheckpointError, ConfigError, InputError
from imagetok.images import ImageContract
from imagetok.io.json_files import MAX_BYTES, as_section, parse_json, read_section
from imagetok.io.regular_files import read_regular
from imagetok.processes import process_state
from imagetok.suggestions import are, counted
from imagetok.training.config import NO_SKIPS, TokenizerRun
from imagetok.training.run_folder import CONFIG, DAMAGED

logger = logging.getLogger("imagetok")
IMAGES = "images.json.gz"
"""The lists of the training and the held-out images of a run."""
SKIPPED = "skipped.json"
"""The images that a run could not read; absent where it could read all."""
Check = int | Literal["all", "off"]
"""Number of files of each split to look at before training."""
T = TypeVar("T")


class SkippedImage(Section):
    """An image that a run could not read."""

    index: int
    """Index in the list of the split's images."""
    path: str
    reason: str


class SkippedImages(Section):
    """Content of skipped.json: the unreadable images of each split."""

    train: tuple[SkippedImage, ...] = ()
    test: tuple[SkippedImage, ...] = ()


class _Lists(Section):
    """Content of images.json.gz."""

    train: ImageList
    test: ImageList


def parse_check(check: int | str) -> int | None:
    """Return the number of files to look at, None for all; ConfigError for anything else."""
    if check in ("all", "off"):
        return None if check == "all" else 0
    if str(check).isascii() and str(check).isdigit():
        return int(check)
    raise ConfigError(f"--check: expected a number of files, all or off, found {check!r}")


def read_skipped(run: Path) -> SkippedImages:
    """Read the list of images that a run could not read; InputError if it is damaged."""
    path = run / SKIPPED
    return read_section(path, SkippedImages) if path.is_file() else SkippedImages()


def with_recorded_allowance(config: TokenizerRun, run: Path, *, resume: bool) -> TokenizerRun:
    """Return the config with the allowance that its run started with, unless it states another."""
    if not (resume and (run / CONFIG).is_file()) or config.max_skip != NO_SKIPS:
        return config
    stored = load_config(run / CONFIG, TokenizerRun)
    return config.model_copy(update={"max_skip": stored.max_skip})


class RunImages:
    """The training and held-out images of a run.

    A run keeps the images, order and labels that it started with: files that were added since are
    not read, files that are missing or damaged are unreadable. In training, an unreadable image is
    replaced (see `SubstitutedImages`); in evaluations it is left out. Beyond `config.max_skip`
    images of either split, InputError is raised.
    """

    def __init__(
        self, config: TokenizerRun, run: Path, *, resume: bool, is_rehearsal: bool = False
    ):
        """Open the images; with `resume`, those that the run in the folder `run` started with.

        is_rehearsal: for a few steps without a run, so that there is nothing to resume, and
        `skipped_in_training` is shown at the end instead of logged.
        """
        lists = _read_lists(run / IMAGES) if resume else None
        skipped = read_skipped(run) if resume else SkippedImages()
        self._run = run
        self._config = config
        self._is_rehearsal = is_rehearsal
        self.training = _open(config, "train", None if lists is None else lists.train)
        self._all_held_out = _open(config, "test", None if lists is None else lists.test)
        self.held_out: ImageDataset = self._all_held_out
        """The held-out images without those that cannot be read."""
        self._allowed = parse_allowance(config.max_skip, len(self.training))
        self._skipped = {"train": _by_index(skipped.train), "test": _by_index(skipped.test)}
        if lists is not None:
            self._log_added()

    def check(self, limit: int | None = LOOKED_AT) -> None:
        """Look at the files before training (a collective); then decode the held-out images.

        limit: number of files of each split, None for all. Raises InputError, which names the file
        with the whole list, if more are missing or damaged than allowed, and if no pixel of the
        label maps of a split has a class.
        """
        fault = None
        if process_state().is_main_process:
            try:
                self._look(limit)
                check_classes(self.training)
                check_classes(self._all_held_out)
            except InputError as error:
                fault = str(error)
        if process_state().num_processes > 1:
            fault = next(iter(gather_object([fault])))
        if fault is not None:
            raise InputError(fault)
        self.held_out = readable(self._all_held_out, self._config.max_skip)
        self._note_held_out()

    @property
    def skipped_in_training(self) -> tuple[Unreadable, ...]:
        """The training images that this process could not read, by index."""
        return tuple(_in_order(self._skipped["train"]))

    def unpack(self, batch: FilledBatch) -> Any:
        """Return the examples of a batch, and note which images it lacks.

        Raises ImageError for an image beyond the allowance.
        """
        for image in batch.skipped:
            self._note(image)
        return batch.examples

    def on_held_out(self, measure: Callable[[ImageDataset], T]) -> T:
        """Return `measure` of the held-out images (a collective).

        If an image has become unreadable, it is left out too, and all are measured again.
        """
        while True:
            try:
                return measure(self.held_out)
            except ImageError as error:
                if parse_allowance(self._config.max_skip, len(self._all_held_out)) == 0:
                    raise self._refusal(error, self._all_held_out) from None
                before = self.held_out.skipped
                self.held_out = readable(self._all_held_out, self._config.max_skip)
                if self.held_out.skipped == before:
                    raise
                self._note_held_out()

    def keep(self) -> None:
        """Write the lists of images, and of those that were skipped, to the run (a collective).

        Raises InputError if all processes together skipped more images than allowed.
        """
        state = process_state()
        if state.num_processes > 1:
            for image in gather_object(list(self._skipped["train"].values())):
                self._skipped["train"][image.index] = image
        if state.is_main_process:
            if not (self._run / IMAGES).is_file():
                lists = _Lists(train=self.training.listed, test=self._all_held_out.listed)
                data = canonical_json(lists.model_dump(mode="json"))
                write_bytes(self._run / IMAGES, gzip.compress(data, mtime=0))
            if any(self._skipped.values()):
                write_json(self._run / SKIPPED, _records(self._skipped))
        refuse_beyond(
            _in_order(self._skipped["train"]),
            self._allowed,
            len(self.training),
            _name_of(self.training),
            " and --resume",
        )

    def _look(self, limit: int | None) -> None:
        """Look at the headers; log what is damaged, write it to damaged.json, refuse too much."""
        damaged: dict[str, dict[int, Unreadable]] = {}
        splits = {"train": self.training, "test": self._all_held_out}
        for split, dataset in splits.items():
            found = look_at(dataset, limit=limit)
            damaged[split] = _by_index([*dataset.missing, *found.damaged])
            if found.looked_at and not damaged[split]:
                logger.info(
                    "%s: looked at %d of %s, none is damaged",
                    *(_name_of(dataset), found.looked_at, counted(found.total, "file")),
                )
        file = self._run / DAMAGED
        if not any(damaged.values()):
            file.unlink(missing_ok=True)
            return
        self._run.mkdir(parents=True, exist_ok=True)
        write_json(file, _records(damaged))
        for split, dataset in splits.items():
            images = _in_order(damaged[split])
            allowed = parse_allowance(self._config.max_skip, len(dataset))
            remedy = f"; {file} lists all of them"
            refuse_beyond(images, allowed, len(dataset), _name_of(dataset), remedy)
            if images:
                logger.warning(
                    "%s: %d of %s %s damaged or missing, which --max-skip allows; %s lists all of "
                    "them:%s",
                    *(_name_of(dataset), len(images), counted(len(dataset), "image")),
                    *(are(len(images)), file, listed(images)),
                )

    def _note(self, image: Unreadable) -> None:
        known = self._skipped["train"]
        if image.index in known:
            return
        if len(known) >= self._allowed:
            fault = ImageError(f"{image.path}: {image.reason}", image.path)
            raise self._refusal(fault, self.training, len(known))
        known[image.index] = image
        if not self._is_rehearsal:
            logger.warning(
                "%s: %s; other training images take its place (%d of %d allowed)",
                *(image.path, image.reason, len(known), self._allowed),
            )

    def _refusal(self, fault: ImageError, dataset: ImageDataset, known: int = 0) -> ImageError:
        """Return the error for an image beyond the allowance, after `known` others."""
        allowed = parse_allowance(self._config.max_skip, len(dataset))
        resuming = "" if self._is_rehearsal else "; then add --resume to continue"
        return ImageError(
            f"{fault}; {_name_of(dataset)}: --max-skip allows {allowed:,} unreadable of "
            f"{counted(len(dataset), 'image')}; mend or replace it, or allow it and a few others "
            f"with --max-skip {allowance_for(known + 1, len(dataset))}{resuming}",
            fault.path,
            fault.reason,
        )

    def _note_held_out(self) -> None:
        self._skipped["test"] |= _by_index(self.held_out.skipped)

    def _log_added(self) -> None:
        """Say how many files were added since the run started, because they are not read."""
        for dataset in (self.training, self._all_held_out):
            if dataset.dataset.split == "all":  # one of them has changed
                known = {*self.training.listed.names, *self._all_held_out.listed.names}
                added = sum(name not in known for name in _names(dataset.dataset))
                if added:
                    logger.warning(
                        "%s: found %s added since the run started; it goes on without",
                        *(dataset.name, counted(added, "image")),
                    )
                return


def _open(config: TokenizerRun, split: str, recorded: ImageList | None) -> ListedImages:
    """Open a split, or the recorded images of a split wherever they are now.

    Raises CheckpointError if the images of a run are others than those that were recorded.
    """
    contract = _contract(config, split)
    dataset = open_images(config.data, split, contract)
    if recorded is None or not recorded.names:  # the loop compares identities
        return ListedImages(ImageList.of(dataset), dataset, split, range(len(dataset)))
    where = f"{dataset.name}:{split}"
    if not isinstance(dataset, CompressedImages):
        raise _other_images(where, "it has no image files")
    places: Sequence[int | None] = range(recorded.count)
    if tuple(_names(dataset)) != recorded.names:
        dataset = _wherever_they_are(config, dataset)
        index_of = _unique(_names(dataset))
        places = [index_of.get(name) for name in recorded.names]
    _check_sizes(recorded, dataset, where, places)
    return ListedImages(recorded, dataset, split, places)


def _wherever_they_are(config: TokenizerRun, dataset: CompressedImages) -> CompressedImages:
    """Return the images of all splits, among which those of a changed split are found by name.

    Where splits share names (two tars `0.tar` in different folders, say), it is the split itself.
    """
    everything = open_images(config.data, "all", dataset.contract)
    assert isinstance(everything, CompressedImages)
    names = _names(everything)
    return everything if len(_unique(names)) == len(names) else dataset


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the index of each name that occurs once."""
    count = Counter(names)
    return {name: index for index, name in enumerate(names) if count[name] == 1}


def _contract(config: TokenizerRun, split: str) -> ImageContract:
    """Return the form in which a split is read: training images that are cropped are larger."""
    image = config.tokenizer.image
    if split == "test" or config.augment is None:
        return image
    # Imported here, because torchvision takes a second to import.
    from imagetok.data.augmented_images import larger

    return larger(config.augment, image)


def _check_sizes(
    recorded: ImageList, dataset: CompressedImages, where: str, places: Sequence[int | None]
) -> None:
    """Log how many files were replaced since the run started; refuse if most of them were.

    where: source and split of the images, for messages.
    """
    sizes = [size for _, size in dataset.contents()]
    there = [i for i, place in enumerate(places) if place is not None]
    changed = [i for i in there if sizes[places[i] or 0] != recorded.sizes[i]]
    if 2 * len(changed) > len(there):
        raise _other_images(where, "most files have another size")
    if changed:
        logger.warning(
            "%s: %s changed since the run started, such as %s; what is there now is read",
            *(where, counted(len(changed), "file"), recorded.names[changed[0]]),
        )


def _other_images(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{where}: expected the images that the run started with, found other training "
        f"data, because {why}; restore them, or train into a new --out"
    )


def _read_lists(path: Path) -> _Lists | None:
    if not path.is_file():
        return None
    packed = read_regular(path, MAX_BYTES)
    try:
        data = zlib.decompressobj(wbits=31).decompress(packed, MAX_BYTES)
    except zlib.error as error:
        raise CheckpointError(f"{path}: damaged ({error}); restore it") from None
    return as_section(
        parse_json(data, str(path), CheckpointError), _Lists, str(path), CheckpointError
    )


def _names(dataset: ImageDataset) -> list[str]:
    is_named = isinstance(dataset, CompressedImages)
    return [name for name, _ in dataset.contents()] if is_named else []


def _name_of(dataset: ImageDataset) -> str:
    return f"{dataset.name}:{dataset.split}"


def _by_index(images: Iterable[Unreadable | SkippedImage]) -> dict[int, Unreadable]:
    return {one.index: Unreadable(one.index, one.path, one.reason) for one in images}


def _in_order(images: Mapping[int, Unreadable]) -> list[Unreadable]:
    return [images[index] for index in sorted(images)]


def _records(images: Mapping[str, Mapping[int, Unreadable]]) -> dict[str, list[dict[str, Any]]]:
    return {split: [asdict(one) for one in _in_order(found)] for split, found in images.items()}
