"""Writing one shard durably: a tar of blocks, then its record."""

from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from imagetok.codes.schema import CodePlan, ShardRecord, Skip, shard_name
from imagetok.codes.tar_layout import block_spans, end_bytes, shard_bytes, shard_spans
from imagetok.durable import sha256_file, staged_file, write_json


class EncodedPart(NamedTuple):
    """Codes, labels and indices of consecutive images of a shard."""

    codes: tuple[np.ndarray, ...]
    """(n, h, w) integers per level."""
    labels: np.ndarray
    """(n,) integers, -1 = none."""
    keys: np.ndarray
    """(n,) source indices."""
    skipped: list[Skip]


def write_shard(
    folder: Path, plan: CodePlan, shard: int, parts: Iterable[EncodedPart]
) -> ShardRecord:
    """Write `NNNNN.tar`, then its record `NNNNN.json`; each file appears only when complete.

    parts: the samples in source order; they are regrouped into blocks of `plan.samples_per_block`.
    """
    name = shard_name(shard)
    path = folder / f"{name}.tar"
    inputs = plan.input_range(shard)
    counts = [np.zeros(k, dtype=np.int64) for k in plan.num_codes]
    skipped: list[Skip] = []
    samples = 0
    with staged_file(path) as file:
        for number, block in enumerate(_blocks(parts, plan.samples_per_block, skipped)):
            _write_block(file, plan, number, block)
            samples += len(block.keys)
            for level, codes in enumerate(block.codes):
                counts[level] += np.bincount(codes.ravel(), minlength=plan.num_codes[level])
        file.write(bytes(end_bytes(plan, samples)))
    record = ShardRecord(
        shard=shard,
        file=path.name,
        sha256=sha256_file(path),
        bytes=shard_bytes(plan, samples),
        samples=samples,
        first_input=inputs.start,
        end_input=inputs.stop,
        skipped=tuple(skipped),
        counts=tuple(tuple(c.tolist()) for c in counts),
        blocks=tuple(
            {place.suffix: place.member for place in places}
            for places in shard_spans(plan, samples)
        ),
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


def _write_block(file: IO[bytes], plan: CodePlan, number: int, block: EncodedPart) -> None:
    arrays = dict(zip(plan.member_suffixes(), block.codes, strict=False))
    for level, codes in enumerate(block.codes):
        low, high = int(codes.min()), int(codes.max())
        assert low >= 0 and high < plan.num_codes[level], "a quantizer returned codes out of range"
    arrays |= {"labels.npy": block.labels, "index.npy": block.keys}
    for place in block_spans(plan, len(block.keys)):
        array = arrays[place.suffix].astype(place.dtype)
        assert array.shape == place.shape, f"{place.suffix}: {array.shape}, not {place.shape}"
        file.write(place.header(number) + array.tobytes() + bytes(place.padding))
