"""Reading code datasets with random access, from a folder or a URL; shards are verified on use."""

import errno
import hashlib
import operator
import resource
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypeVar, get_args, overload

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Dataset

from imagetok import seeding
from imagetok.arguments import checked_count
from imagetok.codes.schema import (
    INDEX,
    MANIFEST,
    MAX_JSON_BYTES,
    PLAN,
    CodePlan,
    Manifest,
    ShardEntry,
    ShardRecord,
    parse_json,
    shard_name,
)
from imagetok.codes.shard import (
    CodeBatch,
    CodeSample,
    CodeSamples,
    Shard,
    check_form,
    check_hash,
    check_range,
    take,
)
from imagetok.codes.storage import LocalStorage, Storage, open_storage
from imagetok.codes.stream import CodeStream
from imagetok.codes.tar_layout import shard_bytes, shard_spans
from imagetok.durable import readable_json
from imagetok.errors import ConfigError, ShardError
from imagetok.indices import checked_index, checked_indices, is_several
from imagetok.suggestions import are, counted, did_you_mean

__all__ = ["CodeBatch", "CodeDataset", "CodeSample", "open_codes", "open_plan"]

K = TypeVar("K", int, np.ndarray, torch.Tensor)
Verification = Literal["full", "sampled", "size"]
OPEN_SHARDS = 256
"""Most local shards that a process keeps memory-mapped; a low `ulimit -n` lowers it."""
REMOTE_SHARDS = 4
"""Most remote shards that a process keeps in memory."""
_SAMPLED = 16
"""`verify="sampled"` hashes one shard in this many."""


class CodeDataset(Dataset):
    """A finished code dataset with len(), indexing, batches and streams; see `open_codes`.

    It is a map-style dataset of torch: `DataLoader(dataset, batch_size=8)` yields a CodeBatch, and
    `Subset`, `random_split` and others take it. `dataset[3]` is a CodeSample, `dataset[3:8]` and
    `dataset[[3, 5]]` are a CodeBatch.

    Each shard is verified the first time it is read; reading a damaged shard raises ShardError,
    which names the shard. DataLoader workers share the results of these checks. The most
    recently used shards stay open: local ones memory-mapped, remote ones in memory.
    """

    def __init__(self, store: Storage, plan: CodePlan, manifest: Manifest, verify: Verification):
        self.plan = plan
        self.manifest = manifest
        self.verify = verify
        self._store = store
        self._max_open = REMOTE_SHARDS if store.is_remote else _most_open()
        self._length = manifest.written
        self._ends = np.cumsum([entry.samples for entry in manifest.shards], dtype=np.int64)
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._recent = 0, 0, Shard(plan, 0, b"")
        # The stamp of each shard at the time it was verified; 0 before that.
        self._good = torch.zeros(len(manifest.shards), dtype=torch.int64).share_memory_()

    @property
    def place(self) -> str:
        """The folder or URL as text, for messages."""
        return self._store.place

    @property
    def folder(self) -> Path:
        """The local folder; raises ShardError when the dataset is remote."""
        if isinstance(self._store, LocalStorage):
            return self._store.folder
        raise ShardError(
            f"{self.place}: expected a local folder, found a remote dataset; download it to a "
            "folder first, and pass that folder"
        )

    @property
    def num_codes(self) -> tuple[int, ...]:
        """Codebook size K of each level, coarse to fine."""
        return self.plan.num_codes

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Grid size (h, w) of each level, coarse to fine."""
        return self.plan.grids

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the codes."""
        return self.plan.tokenizer.fingerprint

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the labels; None for an unlabelled dataset."""
        return len(self.plan.class_names) if self.plan.labelled else None

    @property
    def views(self) -> int:
        """Number of views of each image; each is a sample of its own."""
        return self.plan.views

    @property
    def num_images(self) -> int:
        """Number of images, each with all its views; `len` counts samples."""
        return self._length // self.views

    def image_and_view(self, key: K) -> tuple[K, K]:
        """Return the index of the image in the source, and the view, of a sample's key.

        key: one key, or an array or tensor of keys. See `imagetok.data.views.ImageViews` for the
        order of the views; 0 is the image itself, or its middle.
        """
        return key // self.views, key % self.views

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: SupportsIndex) -> CodeSample: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray | Tensor) -> CodeBatch: ...
    def __getitem__(
        self, index: SupportsIndex | slice | Sequence[int] | np.ndarray | Tensor
    ) -> CodeSample | CodeBatch:
        """Return one sample, or several as a batch.

        index: an integer, also as a NumPy or torch scalar; or a slice, a sequence, array or tensor
        of integers, or a boolean mask over all samples. Negative integers count from the end.
        """
        if type(index) is int:  # first, because it is by far the most frequent
            return self._sample(index)
        if isinstance(index, slice):
            return self._batch(np.arange(*index.indices(self._length)))
        if is_several(index):
            return self._batch(checked_indices(index, self._length))
        return self._sample(operator.index(index))  # pyright: ignore[reportArgumentType]

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> CodeSamples:
        """Return several samples; torch's DataLoader calls this once per batch."""
        dtypes = [self.plan.code_dtype(level) for level in range(len(self.num_codes))]
        return CodeSamples(self._batch(checked_indices(indices, self._length)), dtypes)

    def _sample(self, index: int) -> CodeSample:
        first, end, shard = self._recent
        if not first <= index < end:
            index = checked_index(index, self._length)
            first, end, shard = self._recent = self._find(index)
        return shard.sample(index - first)

    def _batch(self, rows: Int64[np.ndarray, " B"]) -> CodeBatch:
        return take(self.plan, self._ends, self._shard, rows)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        drop_last: bool = False,
    ) -> Iterator[CodeBatch]:
        """Iterate over the whole dataset once, in one process.

        shuffle: use an exact random permutation that depends only on (seed, epoch); it needs 8
        bytes of memory per sample.
        start: skip this many samples; the later batches equal those of a full pass, so that a
        program can resume there.
        drop_last: leave out a final batch that is smaller than batch_size.
        Raises ConfigError if a shuffle needs more remote shards than are kept in memory; use
        `stream` instead, which shuffles them group by group.
        """
        batch_size = checked_count("batch_size", batch_size)
        start = checked_count("start", start, least=0)
        return self._batches(batch_size, shuffle, seed, epoch, start, drop_last)

    def _batches(
        self, batch_size: int, shuffle: bool, seed: int, epoch: int, start: int, drop_last: bool
    ) -> Iterator[CodeBatch]:
        order = None
        if shuffle:
            if self._store.is_remote and len(self._ends) > self._max_open:
                raise ConfigError(
                    f"{self.place}: an exact shuffle of {len(self._ends)} remote shards would "
                    "download a shard for almost every sample; use .stream(shuffle=True), or copy "
                    "the dataset to a local folder"
                )
            draw = seeding.generator(seed, "batches", epoch)
            order = torch.randperm(len(self), generator=draw).numpy()
        for first in range(start - start % batch_size, len(self), batch_size):
            if not drop_last or first + batch_size <= len(self):
                begin, end = max(first, start), min(first + batch_size, len(self))
                yield self._batch(np.arange(begin, end) if order is None else order[begin:end])

    def stream(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        mix: int = REMOTE_SHARDS,
        drop_last: bool = False,
        rank: int | None = None,
        num_ranks: int | None = None,
    ) -> CodeStream:
        """Iterate over the dataset once, shard by shard, split over ranks and DataLoader workers.

        Pass it to `DataLoader(stream, batch_size=None, num_workers=...)`; see `CodeStream` for the
        arguments.
        """
        return CodeStream(
            self._with_max_open(mix)._batch,
            self._ends,
            batch_size,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            start=start,
            mix=mix,
            drop_last=drop_last,
            rank=rank,
            num_ranks=num_ranks,
        )

    def record(self, shard: int) -> ShardRecord:
        """Read a shard's record and check it against the manifest and the plan.

        Raises ShardError when they disagree.
        """
        entry = self.manifest.shards[shard]
        name = f"{shard_name(shard)}.json"
        where = self._store.path(name)
        data = self._store.read(name, MAX_JSON_BYTES)
        if hashlib.sha256(data).hexdigest() != entry.record_sha256:
            raise ShardError(
                f"{where}: its sha256 differs from the one in the manifest; the file is damaged or "
                "belongs to another dataset"
            )
        record = parse_json(data, ShardRecord, where)
        check_record(where, self.plan, shard, record)
        if (record.sha256, record.samples) != (entry.sha256, entry.samples):
            raise ShardError(
                f"{where}: its sha256 or number of samples differs from the shard in the manifest"
            )
        return record

    def checked_shard(self, shard: int, is_hashed: bool = True) -> Shard:
        """Read a shard and check its size and layout; raises ShardError.

        is_hashed: also check its record, its sha256 and the range of its codes and labels.
        """
        entry = self.manifest.shards[shard]
        return self._check(shard, self._store.load(entry.file, entry.bytes).data, is_hashed)

    def __getstate__(self) -> dict[str, Any]:
        # Memory maps do not travel to other processes.
        none = 0, 0, Shard(self.plan, 0, b"")
        return {**self.__dict__, "_open": OrderedDict(), "_recent": none}

    def _with_max_open(self, shards: int) -> "CodeDataset":
        """Return a copy of the dataset that keeps up to `shards` shards open by itself."""
        other = copy(self)  # copies through __getstate__, so no shard is open yet
        other._max_open = shards
        return other

    def _find(self, index: int) -> tuple[int, int, Shard]:
        """Return (first index, end index, shard) of the shard that holds sample `index`."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[shard - 1]) if shard else 0
        return first, int(self._ends[shard]), self._shard(shard)

    def _shard(self, shard: int) -> Shard:
        found = self._open.pop(shard, None)
        if found is None:
            self._close_all_but(self._max_open - 1)
            found = self._open_shard(shard)
        self._open[shard] = found  # at the end: most recently used
        return found

    def _open_shard(self, shard: int) -> Shard:
        """Open a shard; if the process runs out of file handles, keep fewer open from now on."""
        while True:
            try:
                return self._load_and_verify(shard)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                    raise
                self._recent = 0, 0, Shard(self.plan, 0, b"")  # releases its memory map
                self._close_all_but(len(self._open) // 2)
                self._max_open = len(self._open) + 1

    def _close_all_but(self, count: int) -> None:
        """Close the least recently used shards until `count` are left."""
        while len(self._open) > count:
            self._open.popitem(last=False)

    def _load_and_verify(self, shard: int) -> Shard:
        entry = self.manifest.shards[shard]
        content = self._store.load(entry.file, entry.bytes)
        if content.stamp and self._good[shard] == content.stamp:
            return self._view(shard, content.data)
        found = self._check(shard, content.data, self._is_hashed(shard))
        self._good[shard] = content.stamp
        return found

    def _is_hashed(self, shard: int) -> bool:
        if self.verify == "sampled":
            return seeding.derive_seed(0, "verify", self.manifest.root, shard) % _SAMPLED == 0
        return self.verify == "full"

    def _check(self, shard: int, data: Any, is_hashed: bool) -> Shard:
        entry = self.manifest.shards[shard]
        where = self._store.path(entry.file)
        if is_hashed:
            self.record(shard)
            check_hash(where, entry.sha256, data)
        check_form(where, self.plan, entry.samples, data)
        found = self._view(shard, data)
        if is_hashed:
            check_range(where, self.plan, found)
        return found

    def _view(self, shard: int, data: Any) -> Shard:
        samples = self.manifest.shards[shard].samples
        return Shard(self.plan, samples, data, self.plan.index_offset(shard))


def _most_open() -> int:
    """Return how many shards may be open: at most a quarter of the process's file handles."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_low = allowed != resource.RLIM_INFINITY and allowed < 4 * OPEN_SHARDS
    return max(1, allowed // 4) if is_low else OPEN_SHARDS


def open_codes(folder: Path | str, *, verify: Verification = "full") -> CodeDataset:
    """Open a finished code dataset: a folder that `imagetok encode` wrote, or its URL.

    folder: a path, or an http(s) URL, or an s3, gs, az, hf, ... URL that fsspec opens.
    verify: what is checked when a shard is first read. `full`: every byte of the shard and its
    record; `sampled`: the same for one shard in 16, size and layout (headers and padding) for the
    others; `size`: size and layout only. A remote shard is checked each time it is downloaded.
    Raises ShardError when the dataset is missing or unfinished or its manifest was changed,
    ConfigError for an unknown `verify`, ResourceError when a file cannot be downloaded.
    """
    if verify not in get_args(Verification):
        known, hint = get_args(Verification), did_you_mean(verify, get_args(Verification))
        raise ConfigError(f"verify: expected one of {known}, found {verify!r}{hint}")
    store = open_storage(folder)
    plan, plan_sha256 = _read_plan(store)
    manifest = _read_manifest(store, plan)
    where = store.path(MANIFEST)
    if manifest.root != manifest.expected_root():
        raise ShardError(
            f"{where}: its root hash does not match its content; the file is damaged or was edited"
        )
    if manifest.plan_sha256 != plan_sha256:
        raise ShardError(
            f"{store.path(PLAN)}: its sha256 differs from the one in {MANIFEST}; the file was "
            "changed or belongs to another dataset"
        )
    # The lengths are compared first, because a damaged plan may claim any number of shards.
    listed = [entry.file for entry in manifest.shards]
    if len(listed) != plan.num_shards or any(
        name != f"{shard_name(shard)}.tar" for shard, name in enumerate(listed)
    ):
        raise ShardError(
            f"{where}: expected the {counted(plan.num_shards, 'shard')} of {PLAN}, found a list of "
            f"{len(listed)} that differs"
        )
    if not _totals_match(plan, manifest):
        raise ShardError(
            f"{where}: its numbers of samples or bytes do not match {PLAN}; the file is damaged"
        )
    return CodeDataset(store, plan, manifest, verify)


def open_plan(folder: Path | str) -> CodePlan:
    """Read the plan of a code dataset, finished or not; raises ShardError if there is none."""
    return _read_plan(open_storage(folder))[0]


def check_record(where: str, plan: CodePlan, shard: int, record: ShardRecord) -> None:
    """Raise ShardError for a record of another shard or with block offsets that do not fit."""
    inputs = plan.input_range(shard)
    fits = (
        (record.shard, record.file) == (shard, f"{shard_name(shard)}.tar")
        and (record.first_input, record.end_input) == (inputs.start, inputs.stop)
        and record.samples + len(record.skipped) == len(inputs)
        and tuple(len(level) for level in record.counts) == plan.num_codes
        and record.bytes == shard_bytes(plan, record.samples)
        and len(record.blocks) == -(-record.samples // plan.samples_per_block)
    )
    if not fits or any(
        block != {place.suffix: place.member for place in places}
        for block, places in zip(record.blocks, shard_spans(plan, record.samples), strict=True)
    ):
        plan_file = f"{where.rpartition('/')[0]}/{PLAN}"
        raise ShardError(
            f"{where}: does not match {plan_file}; it is damaged or belongs to another dataset"
        )


def check_shard_file(folder: Path, entry: ShardEntry | ShardRecord) -> None:
    """Raise ShardError when a shard's size or sha256 differs from its record."""
    store = LocalStorage(folder)
    check_hash(store.path(entry.file), entry.sha256, store.load(entry.file, entry.bytes).data)


def _totals_match(plan: CodePlan, manifest: Manifest) -> bool:
    """Return whether the manifest's totals are the sums over its shards and their sizes fit."""
    return (
        manifest.inputs == plan.num_inputs == manifest.written + manifest.skipped
        and manifest.written == sum(entry.samples for entry in manifest.shards)
        and all(
            entry.samples <= len(plan.input_range(shard))
            and entry.bytes == shard_bytes(plan, entry.samples)
            for shard, entry in enumerate(manifest.shards)
        )
    )


def _read_plan(store: Storage) -> tuple[CodePlan, str]:
    """Read the plan; return it with the sha256 of its file."""
    if isinstance(store, LocalStorage) and not (store.folder / PLAN).is_file():
        if (store.folder / INDEX).is_file():
            raise ShardError(
                f"{store.place}: holds code datasets of several grids, one a size of images; pass "
                f"one of its folders, which {store.path(INDEX)} lists, or open all with "
                "imagetok.codes.index.open_datasets"
            )
        found = f"it has no {PLAN}" if store.folder.is_dir() else "the folder does not exist"
        raise ShardError(
            f"{store.place}: not a code dataset: {found}; "
            "create one with `imagetok encode --tokenizer T --data SPEC --shards DIR`"
        )
    data = store.read(PLAN, MAX_JSON_BYTES)
    plan = parse_json(data, CodePlan, store.path(PLAN))
    if not 0 < len(plan.num_codes) == len(plan.grids) or max(plan.num_codes) > 2**32:
        raise ShardError(
            f"{store.path(PLAN)}: expected one grid per level and at most 2**32 codes, found "
            f"{len(plan.num_codes)} codebook sizes and {len(plan.grids)} grids; the file is damaged"
        )
    return plan, hashlib.sha256(data).hexdigest()


def _read_manifest(store: Storage, plan: CodePlan) -> Manifest:
    if isinstance(store, LocalStorage) and not (store.folder / MANIFEST).is_file():
        done = sum(p.suffix == ".json" and p.stem.isdigit() for p in store.folder.iterdir())
        raise ShardError(
            f"{store.place}: unfinished: {done} of {counted(plan.num_shards, 'shard')} {are(done)} "
            "complete; run the same `imagetok encode` command again to continue"
        )
    try:
        data = store.read(MANIFEST, MAX_JSON_BYTES)
    except ShardError as error:
        hint = "; the dataset may have been uploaded unfinished" if store.is_remote else ""
        raise ShardError(f"{error}{hint}") from None
    manifest = parse_json(data, Manifest, store.path(MANIFEST))
    # The root hash covers the parsed values, which miss for example a digit beyond a float's
    # precision; so the bytes are compared too.
    if data != readable_json(manifest.model_dump(mode="json")):
        raise ShardError(
            f"{store.path(MANIFEST)}: not formatted as imagetok writes it; the file is damaged or "
            "was edited"
        )
    return manifest
