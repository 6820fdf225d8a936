"""Images in WebDataset tars, read without unpacking: files, globs, brace patterns, URLs."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, final

from imagetok.data.compressed_images import CompressedImages
from imagetok.data.config import WebDatasetConfig
from imagetok.data.image_decoding import MAX_BYTES, EncodedFile, ImageError
from imagetok.data.labels_and_splits import (
    members_by_split,
    number_labels,
    split_members,
    split_of,
    splits_in_paths,
)
from imagetok.data.shard_patterns import expand_shards
from imagetok.data.tar_index import SeekableFile, TarMember, tar_members
from imagetok.data.tar_samples import (
    Members,
    group_members,
    image_ending,
    json_label,
    label_member,
    stray_label,
)
from imagetok.errors import ConfigError, ImagetokError, InputError, ResourceError
from imagetok.images import ImageContract
from imagetok.io.regular_files import open_regular
from imagetok.io.timeouts import within_time_limit
from imagetok.io.url_secrets import public_url, without_secrets

DEFAULT_LABEL = WebDatasetConfig.model_fields["label"].default
_JSON = "json"
_MAX_LABEL_BYTES = 4096
_MAX_JSON_BYTES = 1 << 20
_READ_AHEAD = 5 << 20
"""Number of bytes that fsspec downloads at once."""


class TarSample(NamedTuple):
    """One image of a tar, and its label as text."""

    shard: str
    image: TarMember
    label: str


@final
class TarImages(CompressedImages):
    """Images in tars; only their offsets and labels are kept in memory."""

    def __init__(
        self,
        samples: list[TarSample],
        *,
        split: str,
        contract: ImageContract,
        labels: list[int],
        class_names: tuple[str, ...],
    ):
        super().__init__("webdataset", split, contract, labels, class_names)
        self.samples = samples

    def encoded(self, index: int) -> EncodedFile:
        """Read the bytes of one member only."""
        shard, member, _ = self.samples[index]
        name = self.path_of(index)
        if member.size > MAX_BYTES:
            raise ImageError(
                f"{name}: expected at most {MAX_BYTES:,} bytes, found {member.size:,}",
                name,
                "too_large",
            )
        try:
            return BytesIO(_read(shard, member))
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {error}", name) from None

    def file_of(self, index: int) -> Path | None:
        """Return the path of the tar of one image; None for a URL."""
        shard = self.samples[index].shard
        return None if "://" in shard else Path(shard)

    def contents(self) -> list[tuple[str, int]]:
        """Return the names of tar and member and the size in bytes of each image."""
        return [(f"{Path(s.shard).name}/{s.image.name}", s.image.size) for s in self.samples]

    def path_of(self, index: int) -> str:
        """Return the tar's path or URL and the member's name as one text."""
        shard, image, _ = self.samples[index]
        return f"{public_url(shard)}/{image.name}"


def open_tars(config: WebDatasetConfig, split: str, contract: ImageContract) -> TarImages:
    """Open the images of tars, in the order of the pattern and of the members.

    Raises ConfigError for an invalid pattern or a label ending that no sample has, InputError for
    a missing, damaged or empty tar, ResourceError for one that cannot be downloaded.
    """
    named = {"train": expand_shards(config.shards)}
    if config.test:
        named["test"] = expand_shards(config.test)
    shards = [shard for part in named.values() for shard in part]
    if len(set(shards)) < len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise ConfigError(
            f"{public_url(twice)}: expected different tars, found this one twice; name it once"
        )
    by_part = {
        part: [sample for shard in names for sample in index_shard(shard, config)]
        for part, names in named.items()
    }
    samples = list(itertools.chain(*by_part.values()))
    where = public_url(config.shards)
    is_asked = config.label not in ("", DEFAULT_LABEL)
    if is_asked and samples and not any(sample.label for sample in samples):
        raise ConfigError(
            f"{where}: expected labels in members that end in {config.label!r}, found none; name "
            "the ending of your labels with label=ENDING (empty for none)"
        )
    labels, class_names = number_labels(
        [sample.label for sample in samples],
        lambda i: f"{public_url(samples[i].shard)}/{samples[i].image.name}",
    )
    if config.test:
        num_train = len(by_part["train"])
        parts = {"train": range(num_train), "test": range(num_train, len(samples))}
    else:
        names = _splits_in_names(samples, where) or splits_in_paths([s.image.name for s in samples])
        parts = members_by_split(names) or {"train": range(len(samples))}
    chosen = split_members(parts, split, config.holdout, where) if samples else []
    if not chosen:
        raise InputError(f"{where}: expected images in split {split!r}, found none")
    return TarImages(
        [samples[i] for i in chosen],
        split=split,
        contract=contract,
        labels=[labels[i] for i in chosen],
        class_names=class_names,
    )


def _splits_in_names(samples: list[TarSample], where: str) -> list[str]:
    """Return the split that the name of each sample's tar has; empty unless there are several.

    Raises ConfigError if only some tars are named as splits.
    """
    split_in = {shard: _split_in_name(shard) for shard in {sample.shard for sample in samples}}
    if len(set(split_in.values()) - {""}) < 2:
        return []
    other = next((shard for shard, split in split_in.items() if not split), None)
    if other is not None:
        raise ConfigError(
            f"{where}: expected all tars or none to be named as splits, found "
            f"{PurePosixPath(public_url(other)).name} among others that are; name the tars of the "
            "splits with shards= and test="
        )
    return [split_in[sample.shard] for sample in samples]


def _split_in_name(shard: str) -> str:
    """Return the one split that a word of a tar's name means, else that of its folder; or ""."""
    path = PurePosixPath(public_url(shard))
    words = {split_of(word) for word in re.split("[^a-z]+", path.name.lower())} - {None}
    if not words:
        words = {split_of(path.parent.name)} - {None}
    return words.pop() or "" if len(words) == 1 else ""


def index_shard(shard: str, config: WebDatasetConfig) -> list[TarSample]:
    """Return the samples of one tar that have an image, in the order of their first members.

    See `tar_samples` for which members are samples, images and labels.
    """
    where, asked, found = public_url(shard), config.label.lower(), []
    with _fetching(shard), _open(shard) as file:
        for key, sample in group_members(tar_members(file, where), where).items():
            image = image_ending(sample, config.image.lower(), where, key)
            label = label_member(sample, image, asked) if image and asked else None
            if label is None and asked:
                _refuse_stray_label(sample, image, asked, where)
            if image is None:
                continue
            if label is None and asked == DEFAULT_LABEL:
                label = label_member(sample, image, _JSON)
            text = "" if label is None else _label(file, where, label)
            found.append(TarSample(shard, sample[image], text))
    return found


def _refuse_stray_label(sample: Members, image: str | None, asked: str, where: str) -> None:
    """Raise InputError for a label of a sample that is not the label of its image."""
    stray = stray_label(sample, asked)
    if stray is None:
        return
    expected = f"an image for label {stray.name!r}, found none"
    if image is not None:
        expected = f"the label of {sample[image].name!r} under its name, found {stray.name!r}"
    raise InputError(
        f"{where}: expected {expected}; pack the tar again with equal names, or choose images with "
        "image=ENDING and labels with label=ENDING (empty for none)"
    )


def _label(file: SeekableFile, where: str, member: TarMember) -> str:
    """Return the label in a member as text; "" if a `.json` member holds none."""
    name, is_json = f"{where}: {member.name!r}", member.name.lower().endswith(f".{_JSON}")
    most = _MAX_JSON_BYTES if is_json else _MAX_LABEL_BYTES
    file.seek(member.offset)
    data = file.read(min(member.size, most + 1))
    try:
        if len(data) > most:
            raise ValueError
        text = data.decode()
    except ValueError:
        raise InputError(
            f"{name}: expected a label of at most {most:,} bytes in UTF-8, found other data"
        ) from None
    return json_label(text, name) if is_json else text.strip()


@contextmanager
def _fetching(shard: str) -> Iterator[None]:
    """Turn any error of a remote tar into ResourceError, so that it is not counted as a skip."""
    try:
        yield
    except ImagetokError:
        raise
    except Exception as error:  # each fsspec protocol raises its own classes
        if "://" not in shard:
            raise
        found = without_secrets(str(error) or type(error).__name__, shard)
        raise ResourceError(
            f"{public_url(shard)}: cannot be downloaded: {found}; check the URL, or try again later"
        ) from None


class _RemoteFile:
    """An open remote file; each read has a time limit."""

    def __init__(self, shard: str):
        system, path = _remote(shard)
        self._file = within_time_limit(lambda _: system.open(path, "rb"))

    def read(self, size: int = -1, /) -> bytes:
        return within_time_limit(lambda _: self._file.read(size), max(size, _READ_AHEAD))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def __enter__(self) -> "_RemoteFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _open(shard: str) -> Any:
    if "://" in shard:
        return _RemoteFile(shard)
    try:
        return open_regular(shard)
    except OSError as error:
        raise InputError(f"{shard}: cannot be read: {error.strerror}; check the path") from None


def _read(shard: str, member: TarMember) -> bytes:
    """Read the bytes of one member: from the reopened local file, or with one remote request."""
    end = member.offset + member.size
    if "://" in shard:
        system, path = _remote(shard)
        with _fetching(shard):
            return within_time_limit(
                lambda _: system.cat_file(path, start=member.offset, end=end), member.size
            )
    with open_regular(shard) as file:
        file.seek(member.offset)
        return file.read(member.size)


def _remote(shard: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(shard)
    except ImportError as error:
        extra = '; pip install "imagetok[data]"' if shard.startswith("http") else ""
        raise ResourceError(f"{public_url(shard)}: {error}{extra}") from None
