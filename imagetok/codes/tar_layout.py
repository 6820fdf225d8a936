"""Layout of a shard: the plan and the number of samples determine the offset of every byte.

A shard is a USTAR tar of npy files in which times, owners and padding are fixed. Hence the writer
needs no tar library, and the reader compares every header with the only valid one: a link, an
unexpected name, an object array or a shape of 10^14 items is never interpreted.
"""

import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from imagetok.codes.schema import CodePlan, Member

_TAR_BLOCK = 512
_TAR_RECORD = 10240
_NPY_HEADER = 128
HEADER_BYTES = _TAR_BLOCK + _NPY_HEADER
"""Bytes of the headers before the data of each member; a multiple of 64."""


class ArraySpan(NamedTuple):
    """Position, type and shape of one array of a block."""

    suffix: str
    """Name of the tar member without its block number, such as `codes.npy`."""
    offset: int
    """Byte offset of the data from the start of the tar (in `block_spans`: of the block)."""
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Number of bytes of the data."""
        return _num_bytes(self.dtype, self.shape)

    @property
    def stored_bytes(self) -> int:
        """Number of bytes from this member's tar header to the next member's."""
        return HEADER_BYTES + self.nbytes + self.padding

    @property
    def padding(self) -> int:
        """Number of zero bytes after the data."""
        return -(HEADER_BYTES + self.nbytes) % _TAR_BLOCK

    @property
    def member(self) -> Member:
        """The array's entry in a shard's record."""
        return Member(offset=self.offset, dtype=self.dtype.str, shape=self.shape)

    def header(self, block: int) -> bytes:
        """Return the 640 bytes before the data: the tar header and the npy header."""
        info = tarfile.TarInfo(f"{block:06d}.{self.suffix}")  # mtime, uid and gid are 0 by default
        info.size = _NPY_HEADER + self.nbytes
        info.mode = 0o644
        form = f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': {self.shape!r}, }}"
        # npy format 1.0: magic, version, length of what follows, a Python dict, spaces, newline.
        npy = b"\x93NUMPY\x01\x00" + (_NPY_HEADER - 10).to_bytes(2, "little") + form.encode()
        return info.tobuf(tarfile.USTAR_FORMAT) + npy.ljust(_NPY_HEADER - 1) + b"\n"


def block_spans(plan: CodePlan, size: int) -> list[ArraySpan]:
    """Return the arrays of a block of `size` samples, with offsets from the start of the block."""
    places: list[ArraySpan] = []
    start = 0
    for suffix in plan.member_suffixes():
        dtype, shape = _form(plan, suffix, size)
        places.append(ArraySpan(suffix, start + HEADER_BYTES, dtype, shape))
        start += places[-1].stored_bytes
    return places


def block_bytes(plan: CodePlan, size: int) -> int:
    """Return the number of bytes of a block of `size` samples."""
    return sum(place.stored_bytes for place in block_spans(plan, size))


def shard_spans(plan: CodePlan, samples: int) -> Iterator[list[ArraySpan]]:
    """Yield the arrays of each block of a shard, with offsets from the start of the tar.

    All blocks but the last hold `plan.samples_per_block` samples.
    """
    start = 0
    for first in range(0, samples, plan.samples_per_block):
        places = block_spans(plan, min(plan.samples_per_block, samples - first))
        yield [place._replace(offset=start + place.offset) for place in places]
        start += sum(place.stored_bytes for place in places)


def content_bytes(plan: CodePlan, samples: int) -> int:
    """Return the number of bytes of all blocks of a shard, without the end of the tar."""
    full, rest = divmod(samples, plan.samples_per_block)
    return full * block_bytes(plan, plan.samples_per_block) + (
        block_bytes(plan, rest) if rest else 0
    )


def end_bytes(plan: CodePlan, samples: int) -> int:
    """Return the number of zero bytes at the end of a shard's tar.

    These are two tar blocks or more, up to a whole tar record.
    """
    content = content_bytes(plan, samples)
    return -(-(content + 2 * _TAR_BLOCK) // _TAR_RECORD) * _TAR_RECORD - content


def shard_bytes(plan: CodePlan, samples: int) -> int:
    """Return the number of bytes of a shard's tar."""
    return content_bytes(plan, samples) + end_bytes(plan, samples)


def _form(plan: CodePlan, suffix: str, size: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    if suffix == "labels.npy":
        return np.dtype("<i4"), (size,)
    if suffix == "index.npy":
        return np.dtype("<u8"), (size,)
    level = plan.member_suffixes().index(suffix)
    return plan.code_dtype(level), (size, *plan.grids[level])


def _num_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    count = dtype.itemsize
    for axis in shape:  # Python's integers; numpy's product would overflow
        count *= axis
    return count
