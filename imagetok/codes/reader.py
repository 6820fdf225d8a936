"""Reading code datasets: memory-mapped, verified at first touch, random access."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from imagetok import seeding
from imagetok.codes.plan import (
    MANIFEST,
    PLAN,
    Manifest,
    Member,
    Plan,
    ShardEntry,
    ShardRecord,
    read_json,
    shard_name,
)
from imagetok.durable import sha256_file
from imagetok.errors import ShardError


class CodeSample(NamedTuple):
    """One image's codes, as views of the file."""

    codes: tuple[np.ndarray, ...]
    """(h, w) unsigned integers per level, coarse to fine."""
    label: int
    """Class, or -1."""
    key: int
    """Index in the source."""


class CodeBatch(NamedTuple):
    """Codes of several images, ready for a model."""

    codes: tuple[Int[Tensor, "B _h _w"], ...]
    """int64 per level, coarse to fine."""
    labels: Int[Tensor, " B"]
    """int64, -1 = none."""
    keys: Int[Tensor, " B"]
    """int64 source indices."""


class CodeDataset(Dataset):
    """A finished code dataset on local disk: len(), [i], batches.

    The shards' bytes are compared with their recorded sha256 when a shard is first touched; a
    damaged one raises ShardError with its name. Holds one memory map per touched shard.
    """

    def __init__(self, folder: Path, plan: Plan, manifest: Manifest):
        self.folder = folder
        self.plan = plan
        self.manifest = manifest
        ends = np.cumsum([entry.samples for entry in manifest.shards], dtype=np.int64)
        self._ends = ends
        self._shards: dict[int, list[_Block]] = {}

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.plan.num_codes

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of each level."""
        return self.plan.grids

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer that made the codes."""
        return self.plan.tokenizer.fingerprint

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels have; None without labels."""
        return len(self.plan.class_names) if self.plan.labelled else None

    def __len__(self) -> int:
        return self.manifest.written

    def __getitem__(self, index: int) -> CodeSample:
        block, row = self._locate(index)
        label = int(block.labels[row]) if block.labels is not None else -1
        return CodeSample(tuple(c[row] for c in block.codes), label, int(block.keys[row]))

    def __getitems__(self, indices: Sequence[int]) -> CodeBatch:
        """Several samples at once; torch's DataLoader calls this with a whole batch."""
        n = len(indices)
        codes = [np.empty((n, *grid), dtype=np.int64) for grid in self.grids]
        labels = np.full(n, -1, dtype=np.int64)
        keys = np.empty(n, dtype=np.int64)
        for i, index in enumerate(indices):
            block, row = self._locate(index)
            for level, array in enumerate(block.codes):
                codes[level][i] = array[row]
            if block.labels is not None:
                labels[i] = block.labels[row]
            keys[i] = block.keys[row]
        return CodeBatch(
            tuple(torch.from_numpy(level) for level in codes),
            torch.from_numpy(labels),
            torch.from_numpy(keys),
        )

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        drop_last: bool = False,
    ) -> Iterator[CodeBatch]:
        """One pass over the dataset.

        shuffle: in an exact random order that depends on (seed, epoch) only. The last batch may be
        smaller, unless drop_last.
        """
        order = (
            torch.randperm(len(self), generator=seeding.generator(seed, "batches", epoch)).tolist()
            if shuffle
            else range(len(self))
        )
        for start in range(0, len(self), batch_size):
            indices = order[start : start + batch_size]
            if len(indices) == batch_size or not drop_last:
                yield self.__getitems__(indices)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # memory maps do not travel to other processes

    def _locate(self, index: int) -> tuple["_Block", int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a dataset of {len(self)} samples")
        index %= len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        blocks = self._shards.get(shard)
        if blocks is None:
            blocks = self._shards[shard] = self._open_shard(shard)
        size = self.plan.samples_per_block  # all blocks of a shard but the last are full
        return blocks[row // size], row % size

    def _open_shard(self, shard: int) -> list["_Block"]:
        entry = self.manifest.shards[shard]
        record = read_record(self.folder, self.plan, shard, entry)
        check_shard_file(self.folder, entry)
        with (self.folder / entry.file).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        offset = self.plan.index_offset(shard)
        return [_map_block(mapped, self.plan, block, offset) for block in record.blocks]


class _Block(NamedTuple):
    codes: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    keys: np.ndarray


def open_codes(folder: Path | str) -> CodeDataset:
    """Open a finished code dataset (a folder that `imagetok encode` wrote).

    Raises ShardError when it is missing, unfinished, or its manifest was changed.
    """
    folder = Path(folder)
    plan = open_plan(folder)
    if not (folder / MANIFEST).is_file():
        done = sum((folder / f"{shard_name(s)}.json").is_file() for s in range(plan.num_shards))
        raise ShardError(
            f"{folder}: unfinished, {done} of {plan.num_shards} shards are there; "
            "run the same `imagetok encode` again to continue"
        )
    manifest = read_json(folder / MANIFEST, Manifest)
    if manifest.root != manifest.expected_root():
        raise ShardError(f"{folder / MANIFEST}: its root hash does not fit its content; damaged")
    if manifest.plan_sha256 != sha256_file(folder / PLAN):
        raise ShardError(f"{folder / PLAN}: not the plan that the manifest was made for")
    listed = [entry.file for entry in manifest.shards]
    if listed != [f"{shard_name(s)}.tar" for s in range(plan.num_shards)]:
        raise ShardError(f"{folder / MANIFEST}: does not list the {plan.num_shards} planned shards")
    return CodeDataset(folder, plan, manifest)


def open_plan(folder: Path) -> Plan:
    """The plan of a code dataset, finished or not."""
    if not (folder / PLAN).is_file():
        found = f"it has no {PLAN}" if folder.is_dir() else "there is no such folder"
        raise ShardError(
            f"{folder}: not a code dataset, {found}; "
            "make one with `imagetok encode --tokenizer T --data SPEC --shards DIR`"
        )
    return read_json(folder / PLAN, Plan)


def read_record(folder: Path, plan: Plan, shard: int, entry: ShardEntry) -> ShardRecord:
    """A shard's record, checked against the manifest and the plan."""
    path = folder / f"{shard_name(shard)}.json"
    if not path.is_file():
        raise ShardError(f"{path}: missing, though the manifest lists its shard")
    if sha256_file(path) != entry.record_sha256:
        raise ShardError(f"{path}: its sha256 differs from the manifest's; damaged or swapped")
    record = read_json(path, ShardRecord)
    check_record(path, plan, shard, record)
    if (record.sha256, record.bytes, record.samples) != (entry.sha256, entry.bytes, entry.samples):
        raise ShardError(f"{path}: does not describe the shard that the manifest lists")
    return record


def check_record(path: Path, plan: Plan, shard: int, record: ShardRecord) -> None:
    """Refuse a record whose blocks do not have the plan's members, dtypes, shapes and sizes."""
    inputs = plan.input_range(shard)
    fits = (
        (record.shard, record.file) == (shard, f"{shard_name(shard)}.tar")
        and (record.first_input, record.end_input) == (inputs.start, inputs.stop)
        and record.samples + len(record.skipped) == len(inputs)
        and tuple(len(level) for level in record.counts) == plan.num_codes
    )
    left = record.samples
    for block in record.blocks:
        size = min(left, plan.samples_per_block)
        fits = fits and size > 0 and list(block) == _sorted_like(block, plan)
        for suffix, member in block.items() if fits else ():
            dtype, shape = _expected(plan, suffix, size)
            nbytes = dtype.itemsize * int(np.prod(shape))
            fits = (
                fits
                and (member.dtype, member.shape) == (dtype.str, shape)
                and member.offset % 64 == 0
                and member.offset + nbytes <= record.bytes
            )
        left -= size
    if not fits or left:
        raise ShardError(
            f"{path}: does not fit {path.parent / PLAN}; damaged, or of another dataset"
        )


def check_shard_file(folder: Path, entry: ShardEntry | ShardRecord) -> None:
    """Refuse a tar whose size or sha256 is not the recorded one."""
    path = folder / entry.file
    if not path.is_file():
        raise ShardError(f"{path}: missing, though its record is there; copy the dataset again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ShardError(
            f"{path}: expected {entry.bytes} bytes, found {size}; the shard was cut off. "
            "Delete it with its .json and manifest.json, then run the same `imagetok encode` again"
        )
    if sha256_file(path) != entry.sha256:
        raise ShardError(
            f"{path}: its sha256 differs from the recorded one; the shard is damaged. Delete it "
            "with its .json and manifest.json, then run the same `imagetok encode` again"
        )


def _sorted_like(block: dict[str, Member], plan: Plan) -> list[str]:
    """The plan's member names in the order of this block's JSON (keys are sorted in files)."""
    expected = set(plan.member_suffixes())
    return [name for name in block if name in expected] if set(block) == expected else []


def _expected(plan: Plan, suffix: str, size: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if suffix == "labels.npy":
        return np.dtype("<i4"), (size,)
    if suffix == "index.npy":
        return np.dtype("<u8"), (size,)
    level = plan.member_suffixes().index(suffix)
    return plan.code_dtype(level), (size, *plan.grids[level])


def _map_block(mapped: mmap.mmap, plan: Plan, block: dict[str, Member], offset: int) -> _Block:
    arrays = {
        suffix: np.frombuffer(
            mapped, dtype=member.dtype, count=int(np.prod(member.shape)), offset=member.offset
        ).reshape(member.shape)
        for suffix, member in block.items()
    }
    levels = plan.member_suffixes()[: len(plan.num_codes)]
    for suffix, k in zip(levels, plan.num_codes, strict=True):
        if arrays[suffix].max() >= k:
            raise ShardError(f"a block holds code {arrays[suffix].max()}, but num_codes is {k}")
    codes = tuple(arrays[suffix] for suffix in levels)
    keys = arrays["index.npy"]
    return _Block(codes, arrays.get("labels.npy"), keys + np.uint64(offset) if offset else keys)
