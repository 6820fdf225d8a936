"""Reading one shard that is in memory or memory-mapped: its samples as views, and its checks."""

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final, overload

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from imagetok.codes.schema import CodePlan
from imagetok.codes.storage import REMEDY
from imagetok.codes.tar_layout import (
    block_spans,
    end_bytes,
    shard_spans,
)
from imagetok.errors import ShardError

Bytes = mmap.mmap | bytes


class CodeSample(NamedTuple):
    """Codes of one image, as views of the shard's bytes."""

    codes: tuple[np.ndarray, ...]
    """Arrays of unsigned integers, (h, w) per level, coarse to fine."""
    label: int
    """Class index, or -1 for none."""
    key: int
    """Index of the image in the source; of several views, image x views + view."""


class CodeBatch(NamedTuple):
    """Codes of several images as tensors."""

    codes: tuple[Int[Tensor, "B _h _w"], ...]
    """int64 codes, (B, h, w) per level, coarse to fine."""
    labels: Int[Tensor, " B"]
    """int64 class indices, -1 for none."""
    keys: Int[Tensor, " B"]
    """int64 indices of the images in the source; of several views, image x views + view."""


@final
class CodeSamples(Sequence[CodeSample]):
    """The samples of a batch, as a sequence.

    A DataLoader's `collate_fn` receives it. torch's default puts them together as a CodeBatch, and
    so does that of any list of samples.
    """

    def __init__(self, batch: CodeBatch, dtypes: Sequence[np.dtype[Any]]):
        """dtypes: the stored type of the codes of each level."""
        self.batch = batch
        self._dtypes = dtypes

    @property
    def codes(self) -> tuple[Int[Tensor, "B _h _w"], ...]:
        """int64 codes of all samples, (B, h, w) per level."""
        return self.batch.codes

    @property
    def labels(self) -> Int[Tensor, " B"]:
        """int64 class indices of all samples, -1 for none."""
        return self.batch.labels

    @property
    def keys(self) -> Int[Tensor, " B"]:
        """int64 indices of all images in the source."""
        return self.batch.keys

    def __len__(self) -> int:
        return len(self.batch.labels)

    @overload
    def __getitem__(self, index: int) -> CodeSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[CodeSample]: ...
    def __getitem__(self, index: int | slice) -> CodeSample | list[CodeSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        levels = zip(self.batch.codes, self._dtypes, strict=True)
        return CodeSample(
            tuple(level[index].numpy().astype(dtype) for level, dtype in levels),
            int(self.batch.labels[index]),
            int(self.batch.keys[index]),
        )

    def __iter__(self) -> Iterator[CodeSample]:
        return (self[i] for i in range(len(self)))


def collate(samples: Sequence[CodeSample], *, collate_fn_map: object = None) -> CodeBatch:
    """Put samples together as a batch; torch's default_collate does so for any CodeSample."""
    del collate_fn_map  # default_collate passes it on
    if isinstance(samples, CodeSamples):
        return samples.batch
    levels = zip(*(sample.codes for sample in samples), strict=True)
    return CodeBatch(
        tuple(torch.from_numpy(np.stack(level).astype(np.int64)) for level in levels),
        torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        torch.tensor([sample.key for sample in samples], dtype=torch.int64),
    )


# torch's own way to say how `default_collate` treats a type; see the example in its documentation.
default_collate_fn_map[CodeSample] = collate


class _Blocks(NamedTuple):
    """Consecutive blocks of one size, as views of the shard of shape (blocks, samples, ...)."""

    codes: tuple[np.ndarray, ...]
    labels: np.ndarray | None
    keys: np.ndarray


class Shard:
    """The samples of a shard, as views of its bytes; nothing is copied or checked."""

    def __init__(self, plan: CodePlan, samples: int, data: Bytes, index_offset: int = 0):
        """Map the arrays of `data`; `index_offset` is added to the stored source indices."""
        self._index_offset = index_offset
        self._block_size = plan.samples_per_block
        self._num_full, rest = divmod(samples, self._block_size)
        self._full, end = _view(plan, self._block_size, data, 0, self._num_full)
        self._last, _ = _view(plan, rest, data, end, 1 if rest else 0)

    def sample(self, row: int) -> CodeSample:
        """Return the sample at position `row` of the shard."""
        block, row = divmod(row, self._block_size)
        blocks = self._full
        if block == self._num_full:
            blocks, block = self._last, 0
        labels = blocks.labels
        return CodeSample(
            tuple([level[block, row] for level in blocks.codes]),
            -1 if labels is None else int(labels[block, row]),
            int(blocks.keys[block, row]) + self._index_offset,
        )

    def copy_to(self, batch: "_Arrays", places: Any, rows: Int64[np.ndarray, " n"]) -> None:
        """Copy the samples at `rows` to the positions `places` (indices or a slice) of a batch."""
        self._copy_to(batch, places, rows)
        if self._index_offset:
            batch.keys[places] += self._index_offset

    def _copy_to(self, batch: "_Arrays", places: Any, rows: Int64[np.ndarray, " n"]) -> None:
        block, row = np.divmod(rows, self._block_size)
        if block[0] == block[-1]:  # all in one block, as for most sequential batches
            row = slice(row[0], row[-1] + 1) if bool((np.diff(row) == 1).all()) else row
            blocks = self._last if block[0] == self._num_full else self._full
            _copy(batch, places, blocks, 0 if blocks is self._last else int(block[0]), row)
            return
        num_full = int(np.searchsorted(block, self._num_full))
        _copy(batch, _part(places, 0, num_full), self._full, block[:num_full], row[:num_full])
        if num_full < len(rows):
            last = _part(places, num_full, len(rows))
            _copy(batch, last, self._last, 0, row[num_full:])

    def largest_codes(self) -> list[int]:
        """Return the largest code of each level; -1 for a shard without samples."""
        parts = zip(self._full.codes, self._last.codes, strict=True)
        return [max((int(part.max()) for part in pair if part.size), default=-1) for pair in parts]

    def range_of_labels(self) -> tuple[int, int]:
        """Return the smallest and the largest label; -1 and -1 without labels."""
        pairs = (self._full.labels, self._last.labels)
        parts = [part for part in pairs if part is not None and part.size]
        return min((int(p.min()) for p in parts), default=-1), max(
            (int(p.max()) for p in parts), default=-1
        )


class _Arrays(NamedTuple):
    codes: tuple[np.ndarray, ...]
    labels: np.ndarray
    keys: np.ndarray


def take(
    plan: CodePlan,
    ends: Int64[np.ndarray, " shards"],
    open_shard: Callable[[int], Shard],
    indices: Int64[np.ndarray, " B"],
) -> CodeBatch:
    """Return the samples at `indices`, each in [0, ends[-1]), in that order.

    ends: cumulative number of samples at the end of each shard. open_shard: returns a shard by its
    number; called once per shard.
    """
    n = len(indices)
    batch = _Arrays(
        tuple(np.empty((n, *grid), dtype=np.int64) for grid in plan.grids),
        np.full(n, -1, dtype=np.int64),
        np.empty(n, dtype=np.int64),
    )
    order = None if n and bool((indices[1:] >= indices[:-1]).all()) else np.argsort(indices)
    ascending = indices if order is None else indices[order]
    begin = 0
    while begin < n:
        shard = int(np.searchsorted(ends, ascending[begin], side="right"))
        end = n if ascending[-1] < ends[shard] else int(np.searchsorted(ascending, ends[shard]))
        rows = ascending[begin:end] - (ends[shard - 1] if shard else 0)
        places = slice(begin, end) if order is None else order[begin:end]
        open_shard(shard).copy_to(batch, places, rows)
        begin = end
    codes = tuple(torch.from_numpy(level) for level in batch.codes)
    return CodeBatch(codes, torch.from_numpy(batch.labels), torch.from_numpy(batch.keys))


def check_hash(where: str, sha256: str, data: Bytes) -> None:
    """Raise ShardError when the sha256 of `data` differs from the recorded one."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ShardError(
            f"{where}: its sha256 differs from the recorded one; the shard is damaged. {REMEDY}"
        )


def check_form(where: str, plan: CodePlan, samples: int, data: Bytes) -> None:
    """Raise ShardError when a tar holds anything but the planned members in their order."""
    end = 0
    for block, places in enumerate(shard_spans(plan, samples)):
        for place in places:
            header = place.header(block)
            start, stop = place.offset - len(header), place.offset + place.nbytes
            end = stop + place.padding
            if data[start : place.offset] != header or data[stop:end] != bytes(place.padding):
                name = f"{block:06d}.{place.suffix}"
                raise ShardError(
                    f"{where}: at byte {start:,}: expected the member {name!r} of type "
                    f"{place.dtype.str} and shape {place.shape}, found other bytes; the shard is "
                    "damaged, was manipulated, or belongs to another dataset"
                )
    if data[end:] != bytes(end_bytes(plan, samples)):
        raise ShardError(f"{where}: at byte {end:,}: expected the end of the tar, found more data")


def check_range(where: str, plan: CodePlan, shard: Shard) -> None:
    """Raise ShardError for codes outside the codebook or labels outside the plan's classes."""
    smallest, largest = shard.range_of_labels()
    if smallest < -1 or largest >= len(plan.class_names):
        raise ShardError(
            f"{where}: expected labels in [-1, {len(plan.class_names)}), the classes "
            f"of the plan, found {smallest} to {largest}. {REMEDY}"
        )
    for level, (k, largest) in enumerate(zip(plan.num_codes, shard.largest_codes(), strict=True)):
        if largest >= k:
            raise ShardError(
                f"{where}: level {level}: expected codes in [0, {k}), found {largest}; the shard "
                "may come from another tokenizer. Encode the images again"
            )


def _view(plan: CodePlan, size: int, data: Bytes, start: int, count: int) -> tuple[_Blocks, int]:
    """Map `count` blocks of `size` samples from byte `start` on; return them and their end."""
    places = block_spans(plan, size)
    stride = sum(place.stored_bytes for place in places)
    arrays = {}
    for place in places:
        shape = (count, *place.shape)
        if count:
            one = np.ndarray(place.shape, place.dtype, data, start + place.offset)
            strides = (stride, *one.strides)
            arrays[place.suffix] = np.ndarray(
                shape, place.dtype, data, start + place.offset, strides
            )
        else:
            arrays[place.suffix] = np.empty(shape, place.dtype)
    codes = tuple(arrays[suffix] for suffix in plan.member_suffixes()[: len(plan.num_codes)])
    blocks = _Blocks(codes, arrays.get("labels.npy"), arrays["index.npy"])
    return blocks, start + count * stride


def _copy(batch: _Arrays, places: Any, blocks: _Blocks, block: Any, row: Any) -> None:
    for copied, level in zip(batch.codes, blocks.codes, strict=True):
        copied[places] = level[block, row]
    if blocks.labels is not None:
        batch.labels[places] = blocks.labels[block, row]
    batch.keys[places] = blocks.keys[block, row]


def _part(places: Any, start: int, stop: int) -> Any:
    if isinstance(places, slice):
        return slice(places.start + start, places.start + stop)
    return places[start:stop]
