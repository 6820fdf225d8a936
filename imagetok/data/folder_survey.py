"""What a folder of pictures holds: counts, sizes, classes, splits, copies, and damaged files."""

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from imagetok.data import NO_LABEL, FileImages, FolderConfig, open_images
from imagetok.data.headers import LOOKED_AT, Headers, look_at
from imagetok.data.readable import find_unreadable
from imagetok.data.unreadable import Unreadable
from imagetok.durable import sha256_file
from imagetok.errors import InputError
from imagetok.images import ImageContract
from imagetok.indices import spread
from imagetok.results import Result
from imagetok.suggestions import counted

SHOWN = 5
"""Number of files, classes or formats that are named."""
DECODED = 2_000
"""Number of pictures that are decoded whole unless another is asked for."""
_ANY_FORM = ImageContract(height=32, width=32)  # headers do not depend on it


@dataclass(frozen=True, repr=False)
class FolderSurvey(Result):
    """What a folder of pictures holds, from its file names, headers and decoded pictures."""

    data: FolderConfig
    """The folder as a data source, whose splits and classes are counted."""
    files: tuple[str, ...]
    """Paths of all pictures below the folder, in the order of the source."""
    classes: Mapping[str, int]
    """Number of pictures of each class; empty if unlabelled."""
    without_label: tuple[str, ...]
    """Pictures without a label in a folder with classes, because they lie beside them."""
    train: int
    """Number of training pictures."""
    held_out: int
    """Number of held-out pictures."""
    unused: tuple[str, ...]
    """Pictures of other splits, which are neither for training nor held out."""
    headers: Headers
    """Sizes, modes and formats of the pictures that were looked at, and the damaged files."""
    decoded: int
    """Number of pictures that were decoded, evenly spread; others are known by their headers."""
    copies: tuple[tuple[str, ...], ...]
    """Groups of files of equal content."""
    copies_across: int
    """Number of these groups with both training and held-out pictures."""
    others: tuple[str, ...]
    """Files that are not read, because their endings are not those of pictures."""

    @property
    def damaged(self) -> tuple[Unreadable, ...]:
        """Damaged files, as far as decoding, or else their headers and ends, show it."""
        return self.headers.damaged

    @property
    def is_whole(self) -> bool:
        """Whether every picture was decoded, so that all damage is known."""
        return self.headers.is_whole and self.decoded == len(self.files)

    @cached_property
    def short_sides(self) -> list[int]:
        """The shorter side of each picture in pixels, sorted."""
        return sorted(min(h.width, h.height) for h in self.headers.found.values())

    @cached_property
    def aspects(self) -> list[float]:
        """Width divided by height of each picture, sorted."""
        return sorted(h.width / h.height for h in self.headers.found.values())

    @property
    def is_grey(self) -> bool:
        """Whether every picture that was looked at is grey."""
        modes = {h.mode for h in self.headers.found.values()}
        return bool(modes) and all(m in ("1", "L", "LA") or m.startswith("I;16") for m in modes)

    def with_damaged(self, reasons: Mapping[str, str]) -> "FolderSurvey":
        """Return the survey if these pictures, path -> reason, are damaged too."""
        index = {path: i for i, path in enumerate(self.files)}
        found = [Unreadable(index[path], path, reason) for path, reason in reasons.items()]
        return replace(self, headers=self.headers.without(found))

    def smaller_than(self, side: int) -> list[str]:
        """Return the pictures whose shorter side has less than `side` pixels."""
        small = (i for i, h in self.headers.found.items() if min(h.width, h.height) < side)
        return [self.files[i] for i in small]

    def title(self) -> str:
        """Return the folder and the number of its pictures."""
        return f"{self.data.root}: {counted(len(self.files), 'picture')}"

    def rows(self) -> Mapping[str, object]:
        """Return what was found, by name, as text; what is not there is left out."""
        looked_at, total = self.headers.looked_at, self.headers.total
        across = f"; {self.copies_across} of them in both splits" if self.copies_across else ""
        extra = sum(len(group) - 1 for group in self.copies)
        equal = first_names(first_names(group, " = ") for group in self.copies)
        rows = {
            "looked at": "" if looked_at == total else f"{looked_at:,} of them, evenly spread",
            "decoded": "" if self.decoded == total else f"{self.decoded:,} of them, evenly spread",
            "formats": _common(h.format for h in self.headers.found.values()),
            "modes": _common(h.mode for h in self.headers.found.values()),
            "sizes": self._sizes(),
            "aspect ratios": self._aspects(),
            "classes": _counted(self.classes) or "none",
            "splits": self.splits_text(),
            "without a label": _named(self.without_label),
            "damaged": _named([f"{d.path} ({d.reason})" for d in self.damaged]),
            "copies": extra and f"{extra:,}: {equal}{across}",
            "not read": _named(self.others),
        }
        return {name: text for name, text in rows.items() if text}

    def splits_text(self) -> str:
        """Return how many pictures are for training, held out, and in other splits."""
        text = f"{self.train:,} to train on, {self.held_out:,} held out"
        if not self.unused:
            return text
        root = Path(self.data.root).expanduser()
        folders = sorted({Path(file).relative_to(root).parts[0] for file in self.unused})
        return f"{text}, {len(self.unused):,} not used (in {first_names(folders)})"

    def _sizes(self) -> str:
        found = [(h.width, h.height) for h in self.headers.found.values()]
        if len(set(found)) <= 1:
            return " x ".join(map(str, found[0])) if found else ""
        short = self.short_sides
        return (
            f"short side {short[0]:,} to {short[-1]:,} pixels, median {_middle(short):,}; "
            f"{len(set(found)):,} sizes"
        )

    def _aspects(self) -> str:
        aspects = self.aspects
        if not aspects or aspects[0] == aspects[-1]:
            return ""
        return f"{aspects[0]:.2f} to {aspects[-1]:.2f} (width / height), median " + (
            f"{statistics.median(aspects):.2f}"
        )


def survey_folder(
    data: FolderConfig, *, limit: int | None = LOOKED_AT, decode: int = DECODED
) -> FolderSurvey:
    """Look through a folder of pictures: names, headers, and the content of files of equal size.

    limit: number of files to look at, evenly spread; None: all. decode: number of pictures to
    decode, evenly spread. Raises InputError for a folder that is missing or has fewer than two
    pictures.
    """
    whole = _open(data, "all")
    if len(whole) < 2:
        raise InputError(
            f"{data.root}: expected at least 2 pictures, one to train on and one to hold out, "
            f"found {len(whole)}; add others"
        )
    train, held_out = (_open(data, split) for split in ("train", "test"))
    headers, to_decode = look_at(whole, limit=limit), spread(len(whole), decode)
    sound = [i for i in to_decode if i in headers.found]
    headers = headers.without(find_unreadable(whole, sound))
    paths = [whole.path_of(i) for i in range(len(whole))]
    copies = find_copies(paths[i] for i in _equal_sizes(headers))
    splits = [{dataset.path_of(i) for i in range(len(dataset))} for dataset in (train, held_out)]
    counts = Counter(whole.labels)
    return FolderSurvey(
        data=data,
        files=tuple(paths),
        classes={name: counts[label] for label, name in enumerate(whole.class_names)},
        without_label=tuple(
            path
            for path, label in zip(paths, whole.labels, strict=True)
            if label == NO_LABEL and whole.class_names
        ),
        train=len(train),
        held_out=len(held_out),
        unused=tuple(path for path in paths if not any(path in split for split in splits)),
        headers=headers,
        decoded=len(to_decode),
        copies=copies,
        copies_across=sum(all(split & {*group} for split in splits) for group in copies),
        others=tuple(_others(Path(data.root).expanduser(), {*paths})),
    )


def find_copies(files: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of two or more files of equal content, in the order of `files`."""
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        groups[sha256_file(Path(file))].append(file)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _open(data: FolderConfig, split: str) -> FileImages:
    dataset = open_images(data, split, _ANY_FORM)
    assert isinstance(dataset, FileImages)
    return dataset


def _equal_sizes(headers: Headers) -> list[int]:
    """Return the indices of the files whose number of bytes another file has too."""
    counts = Counter(header.num_bytes for header in headers.found.values())
    return [i for i, header in headers.found.items() if counts[header.num_bytes] > 1]


def _others(folder: Path, pictures: set[str]) -> Iterable[str]:
    """Yield the files below a folder that are not pictures, without hidden ones, by path."""
    for current, subfolders, names in os.walk(folder, followlinks=False):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            path = str(Path(current, name))
            if not name.startswith(".") and path not in pictures:
                yield path


def _middle(values: Sequence[int]) -> int:
    return values[len(values) // 2]


def _counted(counts: Mapping[str, int]) -> str:
    """Return the number of names and the first ones with their counts: `2: cat (5), dog (2)`."""
    listed = first_names(f"{name} ({count:,})" for name, count in counts.items())
    return f"{len(counts):,}: {listed}" if counts else ""


def _common(names: Iterable[str]) -> str:
    """Return the names with their counts, the most common first: `JPEG (5), PNG (2)`."""
    return first_names(f"{name} ({count:,})" for name, count in Counter(names).most_common())


def _named(paths: Sequence[str]) -> str:
    return f"{len(paths):,}: {first_names(paths)}" if paths else ""


def first_names(texts: Iterable[str], between: str = ", ") -> str:
    """Return the first of some texts, with ... if there are more."""
    listed = list(texts)
    return between.join([*listed[:SHOWN], *(["..."] if len(listed) > SHOWN else [])])
