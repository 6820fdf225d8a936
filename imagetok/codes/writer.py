"""Writing one shard: a tar of blocks, durable, with its record after it."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagetok.codes.plan import Member, Plan, ShardRecord, Skip, shard_name
from imagetok.durable import sha256_file, staged_file, write_json


class EncodedPart(NamedTuple):
    """Consecutive encoded samples of a shard."""

    codes: tuple[np.ndarray, ...]
    """(n, h, w) integers per level."""
    labels: np.ndarray
    """(n,) integers, -1 = none."""
    keys: np.ndarray
    """(n,) source indices."""
    skipped: list[Skip]


def write_shard(folder: Path, plan: Plan, shard: int, parts: Iterable[EncodedPart]) -> ShardRecord:
    """Write `NNNNN.tar`, then `NNNNN.json`; each appears only when complete.

    parts: the samples in source order; regrouped into blocks of `plan.samples_per_block`.
    """
    name = shard_name(shard)
    path = folder / f"{name}.tar"
    inputs = plan.input_range(shard)
    counts = [np.zeros(k, dtype=np.int64) for k in plan.num_codes]
    skipped: list[Skip] = []
    blocks: list[dict[str, Member]] = []
    samples = 0
    with (
        staged_file(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for block in _blocks(parts, plan.samples_per_block, skipped):
            blocks.append(_write_block(tar, plan, len(blocks), block))
            samples += len(block.keys)
            for level, codes in enumerate(block.codes):
                counts[level] += np.bincount(codes.ravel(), minlength=plan.num_codes[level])
    record = ShardRecord(
        shard=shard,
        file=path.name,
        sha256=sha256_file(path),
        bytes=path.stat().st_size,
        samples=samples,
        first_input=inputs.start,
        end_input=inputs.stop,
        skipped=tuple(skipped),
        counts=tuple(tuple(c.tolist()) for c in counts),
        blocks=tuple(blocks),
    )
    write_json(folder / f"{name}.json", record.model_dump(mode="json"))
    return record


def _blocks(parts: Iterable[EncodedPart], size: int, skipped: list[Skip]) -> Iterable[EncodedPart]:
    """Regroup parts into blocks of `size` samples (the last may be smaller)."""
    waiting: list[EncodedPart] = []
    for part in parts:
        skipped += part.skipped
        waiting.append(part)
        while sum(len(p.keys) for p in waiting) >= size:
            joined = _join(waiting)
            yield _slice(joined, 0, size)
            waiting = [_slice(joined, size, len(joined.keys))]
    if waiting and sum(len(p.keys) for p in waiting):
        yield _join(waiting)


def _join(parts: list[EncodedPart]) -> EncodedPart:
    levels = range(len(parts[0].codes))
    return EncodedPart(
        tuple(np.concatenate([p.codes[level] for p in parts]) for level in levels),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.keys for p in parts]),
        [],
    )


def _slice(part: EncodedPart, start: int, stop: int) -> EncodedPart:
    codes = tuple(level[start:stop] for level in part.codes)
    return EncodedPart(codes, part.labels[start:stop], part.keys[start:stop], [])


def _write_block(
    tar: tarfile.TarFile, plan: Plan, number: int, block: EncodedPart
) -> dict[str, Member]:
    arrays: list[np.ndarray] = []
    for level, codes in enumerate(block.codes):
        low, high = int(codes.min()), int(codes.max())
        assert low >= 0 and high < plan.num_codes[level], "a quantizer returned codes out of range"
        arrays.append(codes.astype(plan.code_dtype(level)))
    if plan.labelled:
        arrays.append(block.labels.astype("<i4"))
    arrays.append(block.keys.astype("<u8"))
    return {
        suffix: _write_member(tar, f"{number:06d}.{suffix}", array)
        for suffix, array in zip(plan.member_suffixes(), arrays, strict=True)
    }


def _write_member(tar: tarfile.TarFile, name: str, array: np.ndarray) -> Member:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
    data = buffer.getvalue()
    info = tarfile.TarInfo(name)  # mtime, uid and gid are 0 by default
    info.size = len(data)
    info.mode = 0o644
    header = tar.offset  # a USTAR header is one 512-byte record
    tar.addfile(info, io.BytesIO(data))
    offset = header + 512 + len(data) - array.nbytes
    return Member(offset=offset, dtype=array.dtype.str, shape=array.shape)
