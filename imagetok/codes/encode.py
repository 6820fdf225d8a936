"""Images to a code dataset: any number of processes, killed and rerun or not, the same bytes."""

import logging
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from imagetok import seeding
from imagetok.codes.plan import (
    MANIFEST,
    PLAN,
    LevelUse,
    Manifest,
    Plan,
    Precision,
    ShardEntry,
    ShardRecord,
    Skip,
    TokenizerId,
    read_json,
    shard_name,
)
from imagetok.codes.reader import check_record, check_shard_file, open_plan
from imagetok.codes.writer import EncodedPart, write_shard
from imagetok.config import differences
from imagetok.data import ImageBatch, ImageDataset, ImageError
from imagetok.durable import is_temporary, lock, remove_temporaries, sha256_file, write_json
from imagetok.errors import ConfigError, InputError, ResourceError, ShardError
from imagetok.evaluation import codebook_use
from imagetok.images import from_stored
from imagetok.processes import full_float32, process_state
from imagetok.progress import ProgressBar
from imagetok.stopping import StopRequest
from imagetok.tokenizers import Tokenizer, at_test_time

logger = logging.getLogger("imagetok")


class EncodeReport(NamedTuple):
    """What an encoding made; `inputs == written + skipped` was checked."""

    inputs: int
    written: int
    skipped: int
    skips: list[Skip]
    """Each skipped input with its path and reason."""
    num_shards: int
    num_bytes: int
    usage: tuple[LevelUse, ...]


class Estimate(NamedTuple):
    """What an encoding would take."""

    inputs: int
    num_shards: int
    num_bytes: int
    seconds: float
    free_bytes: int


class FirstImages(ImageDataset):
    """The first `limit` images of a dataset."""

    def __init__(self, dataset: ImageDataset, limit: int):
        self.dataset = dataset
        self.length = min(limit, len(dataset))
        self.name, self.split = dataset.name, dataset.split
        self.contract, self.class_names = dataset.contract, dataset.class_names

    def __len__(self) -> int:
        return self.length

    def identity(self) -> str:
        return f"{self.dataset.identity()}[:{self.length}]"

    def read(self, indices: Sequence[int]) -> ImageBatch:
        return self.dataset.read(indices)

    def path_of(self, index: int) -> str:
        return self.dataset.path_of(index)


def parse_allowance(text: str, inputs: int) -> int:
    """How many skips `N` or `P%` allows out of `inputs`; ConfigError for anything else."""
    is_share = text.endswith("%")
    form = r"[0-9]+(\.[0-9]+)?%" if is_share else "[0-9]+"
    if not re.fullmatch(form, text) or (is_share and Fraction(text[:-1]) > 100):
        raise ConfigError(f"--max-skip: expected a count or a percentage like 0.5%, found {text!r}")
    # In whole numbers: 0.57 % of 100,000 in floating point is 569.
    return int(inputs * Fraction(text[:-1]) / 100) if is_share else int(text)


def make_plan(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    *,
    source: str,
    name: str,
    samples_per_shard: int = 65536,
    precision: Precision = "float32",
) -> Plan:
    """What encoding `dataset` with `tokenizer` will make.

    source: the data spec, for people and for the comparison at a rerun. name: of the tokenizer,
    for people only. precision: of the encoder; `bfloat16` is faster where the machine computes in
    it and changes some of the codes.
    """
    return Plan(
        tokenizer=TokenizerId(fingerprint=tokenizer.fingerprint, name=name),
        num_codes=tokenizer.num_codes,
        grids=tokenizer.grids,
        image=tokenizer.image,
        source=source,
        source_identity=dataset.identity(),
        num_inputs=len(dataset),
        labelled=bool(dataset.class_names),
        class_names=dataset.class_names,
        samples_per_block=min(1024, samples_per_shard),
        samples_per_shard=samples_per_shard,
        precision=precision,
    )


def encode_dataset(
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    folder: Path,
    plan: Plan,
    *,
    max_skips: int = 0,
    threads: int | None = None,
) -> EncodeReport:
    """Write the code dataset of `plan` into `folder`; a rerun continues where one was stopped.

    Shards are shared over the processes of a distributed run. threads: micro-batches computed at
    once (default: torch's thread count on a CPU, 1 on a GPU); changes the speed, never the bytes.
    max_skips: unreadable images allowed over the whole dataset. Raises ConfigError when `folder`
    holds another plan, InputError beyond max_skips, ResourceError on too little disk, StoppedError
    after a signal (rerun to continue).
    """
    state = process_state()
    logger.info("processes: %d", state.num_processes)
    _check_space(folder, plan)
    with (
        lock(folder) if state.is_main_process else nullcontext(),
        StopRequest() as stop,
        full_float32(),
    ):
        if state.is_main_process:
            commit_plan(folder, plan)
        state.wait_for_everyone()
        mine = range(state.process_index, plan.num_shards, state.num_processes)
        todo = [shard for shard in mine if not is_complete(folder, plan, shard)]
        finished = [shard for shard in mine if shard not in todo]
        skipped = sum(len(_record(folder, shard).skipped) for shard in finished)
        total = sum(len(plan.input_range(shard)) for shard in mine)
        done = total - sum(len(plan.input_range(shard)) for shard in todo)
        with ProgressBar("encoding", total, done, state.is_main_process) as progress:
            for shard in todo:
                inputs = plan.input_range(shard)
                parts = _encode_range(tokenizer, dataset, plan, inputs, threads)
                watched = _watched(parts, progress, done, max_skips - skipped, stop)
                skipped += len(write_shard(folder, plan, shard, watched).skipped)
                done += len(inputs)
        state.wait_for_everyone()
        report = commit_manifest(folder, plan, max_skips) if state.is_main_process else None
        state.wait_for_everyone()
    return report or _report(plan, _records(folder, plan))


def estimate(tokenizer: Tokenizer, dataset: ImageDataset, folder: Path, plan: Plan) -> Estimate:
    """Size and time of an encoding, from encoding the first images; writes nothing."""
    count = min(len(dataset), 4 * plan.micro_batch)
    begun = time.perf_counter()
    for _ in _encode_range(tokenizer, dataset, plan, range(count), None):
        pass
    seconds = (time.perf_counter() - begun) * len(dataset) / max(count, 1)
    return Estimate(
        len(dataset), plan.num_shards, _expected_bytes(plan), seconds, _free_bytes(folder)
    )


def _watched(
    parts: Iterable[EncodedPart],
    progress: ProgressBar,
    done: int,
    max_skips: int,
    stop: StopRequest,
) -> Iterator[EncodedPart]:
    """The same parts, with progress, the stop request and the allowance of skips looked at."""
    skipped = 0
    for part in parts:
        stop.check_here()
        skipped += len(part.skipped)
        if skipped > max_skips:
            worst = part.skipped[-1]
            raise InputError(
                f"{worst.path}: {worst.reason}; more images are unreadable than --max-skip allows. "
                "Remove the file, or allow more with --max-skip N or P%"
            )
        yield part
        done += len(part.keys) + len(part.skipped)
        progress.update(done)


def _encode_range(
    tokenizer: Tokenizer, dataset: ImageDataset, plan: Plan, inputs: range, threads: int | None
) -> Iterator[EncodedPart]:
    """Micro-batches of a range of inputs, in order, several computed at once."""
    if threads is None:
        is_cpu = next(tokenizer.parameters()).device.type == "cpu"
        threads = torch.get_num_threads() if is_cpu else 1
    # One intra-op thread each: the split of a sum over threads would change its last bit.
    with (
        at_test_time(tokenizer),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        waiting: deque[Future[EncodedPart]] = deque()
        try:
            for start in range(inputs.start, inputs.stop, plan.micro_batch):
                micro = range(start, min(start + plan.micro_batch, inputs.stop))
                waiting.append(pool.submit(_encode_micro, tokenizer, dataset, plan, micro))
                if len(waiting) == 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode_micro(
    tokenizer: Tokenizer, dataset: ImageDataset, plan: Plan, inputs: range
) -> EncodedPart:
    """One forward pass of exactly `plan.micro_batch` images, padded with zeros."""
    kept, skips = _read(dataset, inputs)
    device = next(tokenizer.parameters()).device
    images = from_stored(kept.images, tokenizer.image)
    padding = images.new_zeros(plan.micro_batch - len(images), *images.shape[1:])
    # Only a test rule that samples draws from it.
    draw = seeding.generator(0, "encode", inputs.start, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
        codes = tokenizer.encode(torch.cat([images, padding]).to(device), generator=draw)
    return EncodedPart(
        tuple(level[: len(images)].cpu().numpy() for level in codes),
        kept.labels.numpy(),
        kept.indices.numpy(),
        skips,
    )


def _read(dataset: ImageDataset, inputs: range) -> tuple[ImageBatch, list[Skip]]:
    """The readable images of a range, and why the others are not."""
    try:
        return dataset.read(inputs), []
    except ImageError:
        pass
    parts, skips = [], []
    for index in inputs:
        try:
            parts.append(dataset.read([index]))
        except ImageError as error:
            skips.append(Skip(index=index, path=str(error.path), reason=error.reason))
    if not parts:
        contract = dataset.contract
        empty = torch.zeros(0, contract.channels, contract.height, contract.width)
        none = torch.zeros(0, dtype=torch.int64)
        return ImageBatch(empty.to(torch.uint8), none, none), skips
    return ImageBatch(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), skips


def commit_plan(folder: Path, plan: Plan) -> None:
    """Write the plan into an empty folder, or go on with the same; hold the folder's lock.

    Raises ConfigError, with the differing fields, when the folder holds anything else.
    """
    if (folder / PLAN).is_file():
        stored = open_plan(folder)
        old, new = stored.model_dump(mode="json"), plan.model_dump(mode="json")
        new["tokenizer"]["name"] = old["tokenizer"]["name"]  # only for people
        changed = differences(old, new)
        if changed:
            lines = "\n".join(f"  {k}: {a!r} there, {b!r} asked" for k, (a, b) in changed.items())
            raise ConfigError(
                f"{folder}: holds another code dataset:\n{lines}\nchoose another --shards folder"
            )
    else:
        # A writer that was killed at its first file leaves that one's temporary name.
        foreign = [p.name for p in folder.iterdir() if not is_temporary(p, PLAN)]
        if foreign:
            raise ConfigError(
                f"{folder}: not empty and no code dataset (found {foreign[0]}); "
                "choose another --shards folder"
            )
        write_json(folder / PLAN, plan.model_dump(mode="json"))
    remove_temporaries(folder)


def is_complete(folder: Path, plan: Plan, shard: int) -> bool:
    """Whether a shard and its record are there, undamaged."""
    path = folder / f"{shard_name(shard)}.json"
    if not path.is_file():
        return False
    try:
        record = read_json(path, ShardRecord)
        check_record(path, plan, shard, record)
        check_shard_file(folder, record)
    except ShardError as error:
        logger.warning("making a damaged shard again: %s", error)
        return False
    return True


def _records(folder: Path, plan: Plan) -> list[ShardRecord]:
    return [_record(folder, shard) for shard in range(plan.num_shards)]


def _record(folder: Path, shard: int) -> ShardRecord:
    return read_json(folder / f"{shard_name(shard)}.json", ShardRecord)


def commit_manifest(folder: Path, plan: Plan, max_skips: int) -> EncodeReport:
    """Finish a dataset whose shards are all there; InputError beyond max_skips."""
    records = _records(folder, plan)
    report = _report(plan, records)
    if report.skipped > max_skips:
        raise InputError(
            f"{report.skipped} of {report.inputs} images are unreadable, {max_skips} are allowed; "
            f"the first is {report.skips[0].path} ({report.skips[0].reason}). "
            "Remove them, or allow skips with --max-skip N or P%"
        )
    manifest = Manifest(
        plan_sha256=sha256_file(folder / PLAN),
        shards=tuple(
            ShardEntry(
                file=record.file,
                sha256=record.sha256,
                bytes=record.bytes,
                samples=record.samples,
                record_sha256=sha256_file(folder / f"{shard_name(record.shard)}.json"),
            )
            for record in records
        ),
        inputs=report.inputs,
        written=report.written,
        skipped=report.skipped,
        usage=report.usage,
    )
    manifest = manifest.model_copy(update={"root": manifest.expected_root()})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return report


def _report(plan: Plan, records: list[ShardRecord]) -> EncodeReport:
    skips = [skip for record in records for skip in record.skipped]
    written = sum(record.samples for record in records)
    assert plan.num_inputs == written + len(skips), "inputs == written + skipped"
    usage = []
    for level, k in enumerate(plan.num_codes):
        counts = np.sum([r.counts[level] for r in records], axis=0) if records else np.zeros(k)
        use = codebook_use(torch.as_tensor(counts, dtype=torch.int64))
        usage.append(LevelUse(num_codes=k, codes_used=use.codes_used, perplexity=use.perplexity))
    num_bytes = sum(record.bytes for record in records)
    return EncodeReport(
        plan.num_inputs, written, len(skips), skips, len(records), num_bytes, tuple(usage)
    )


def _expected_bytes(plan: Plan) -> int:
    codes = sum(plan.code_dtype(level).itemsize * h * w for level, (h, w) in enumerate(plan.grids))
    per_sample = codes + 8 + (4 if plan.labelled else 0)
    members = len(plan.member_suffixes()) * -(-plan.num_inputs // plan.samples_per_block)
    return plan.num_inputs * per_sample + members * 1152 + plan.num_shards * 10240


def _free_bytes(folder: Path) -> int:
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    return shutil.disk_usage(existing).free


def _check_space(folder: Path, plan: Plan) -> None:
    there = sum(shard.stat().st_size for shard in folder.glob("*.tar"))
    needed, free = _expected_bytes(plan) - there, _free_bytes(folder)
    if needed > free:
        raise ResourceError(
            f"{folder}: the codes need about {needed:,} bytes, the disk has {free:,} free; "
            "free some, or choose another disk"
        )
