"""Committing a code dataset: the plan first, then shards with records, the manifest last."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imagetok.codes.reader import check_record, check_shard_file, open_plan
from imagetok.codes.schema import (
    MANIFEST,
    PLAN,
    CodePlan,
    LevelUse,
    Manifest,
    ShardEntry,
    ShardRecord,
    Skip,
    read_json,
    shard_name,
)
from imagetok.codes.tar_layout import shard_bytes
from imagetok.config import differences
from imagetok.durable import is_temporary, remove_temporaries, sha256_file, write_json
from imagetok.errors import ConfigError, InputError, ResourceError, ShardError
from imagetok.io.url_secrets import public_url
from imagetok.quantizers import codebook_use
from imagetok.suggestions import counted

logger = logging.getLogger("imagetok")


class EncodeReport(NamedTuple):
    """Totals of a written code dataset, with `inputs == written + skipped`."""

    inputs: int
    written: int
    skipped: int
    skips: list[Skip]
    """Each skipped input with its path and reason; filled on the main process only."""
    num_shards: int
    num_bytes: int
    usage: tuple[LevelUse, ...]
    views: int
    """Views of each image; each of them is an input."""


def commit_plan(folder: Path, plan: CodePlan, read_differently: Callable[[], str] = str) -> None:
    """Write the plan into an empty folder, or continue with an equal one that is there.

    The caller holds the folder's lock. read_differently: returns why the same source may differ
    from what it was for an earlier version. Raises ConfigError, listing the differing fields, when
    the folder holds anything else.
    """
    new = plan.model_dump(mode="json")
    if (folder / PLAN).is_file():
        old = open_plan(folder).model_dump(mode="json")
        old["tokenizer"]["name"] = new["tokenizer"]["name"]  # never compared
        old["source"] = public_url(old["source"])  # earlier versions stored passwords in URLs
        same_source = old["source"] == new["source"]
        is_changed = same_source and old["source_identity"] != new["source_identity"]
        reason = _reason(read_differently) if is_changed else ""
        continue_folder(folder, "code dataset", old, new, reason)
    else:
        start_folder(folder / PLAN, "code dataset", new)


def _reason(read_differently: Callable[[], str]) -> str:
    found = read_differently()
    how = f": {found}" if found else ""
    return (
        "the source is the same, but its images or labels are not: files were added, removed, "
        f"changed or relabelled, or this version of imagetok reads them differently{how}\n"
    )


def start_folder(path: Path, what: str, made_by: Mapping[str, Any]) -> None:
    """Start an empty folder with a record of the settings that its files are made with.

    The caller holds the folder's lock. path: the record. what: name of the folder's content for
    messages. made_by: the settings. Raises ConfigError when the folder is not empty.
    """
    folder = path.parent
    # A writer that was killed while writing the record leaves its temporary file.
    others = [p.name for p in folder.iterdir() if not is_temporary(p, path.name)]
    if others:
        raise ConfigError(
            f"{folder}: expected an empty folder or a {what}, found {others[0]}; choose another "
            "folder"
        )
    write_json(path, made_by)
    remove_temporaries(folder)


def continue_folder(
    folder: Path, what: str, old: Mapping[str, Any], new: Mapping[str, Any], reason: str = ""
) -> None:
    """Continue in a folder whose files are made with the settings `old`.

    The caller holds the folder's lock. reason: why they may differ, a line for the message. Raises
    ConfigError, listing the fields that differ, when the settings `new` are not the same.
    """
    changed = differences(old, new)
    if changed:
        lines = "\n".join(
            f"  {k}: {a!r} in the folder, {b!r} requested" for k, (a, b) in changed.items()
        )
        raise ConfigError(
            f"{folder}: holds a different {what}:\n{lines}\n{reason}choose another folder"
        )
    remove_temporaries(folder)


def is_complete(folder: Path, plan: CodePlan, shard: int) -> bool:
    """Return whether a shard and its record exist and are undamaged."""
    path = folder / f"{shard_name(shard)}.json"
    if not path.is_file():
        return False
    try:
        record = read_json(path, ShardRecord)
        check_record(str(path), plan, shard, record)
        check_shard_file(folder, record)
    except ShardError as error:
        reason = str(error).partition("; ")[0]
        logger.warning("writing a damaged shard again: %s", reason)
        return False
    return True


def read_record(folder: Path, shard: int) -> ShardRecord:
    """Read a shard's record; raises ShardError when it is missing or damaged."""
    return read_json(folder / f"{shard_name(shard)}.json", ShardRecord)


def commit_manifest(folder: Path, plan: CodePlan, max_skips: int) -> EncodeReport:
    """Write the manifest of a dataset whose shards all exist; InputError beyond max_skips."""
    entries: list[ShardEntry] = []
    skips: list[Skip] = []
    counts = [torch.zeros(k, dtype=torch.int64) for k in plan.num_codes]
    for shard in range(plan.num_shards):
        record = read_record(folder, shard)  # one at a time: large codebooks have large records
        entries.append(
            ShardEntry(
                file=record.file,
                sha256=record.sha256,
                bytes=record.bytes,
                samples=record.samples,
                record_sha256=sha256_file(folder / f"{shard_name(shard)}.json"),
            )
        )
        skips += record.skipped
        for total, level in zip(counts, record.counts, strict=True):
            total += torch.tensor(level)
    written = sum(entry.samples for entry in entries)
    assert plan.num_inputs == written + len(skips), "inputs == written + skipped"
    if len(skips) > max_skips:
        raise InputError(
            f"{len(skips) // plan.views} of {counted(plan.num_images, 'image')} cannot be read, "
            f"and --max-skip allows {max_skips // plan.views}; the first is {skips[0].path} "
            f"({skips[0].reason}). Remove these files, or allow more skips with --max-skip N or "
            "--max-skip P%"
        )
    manifest = Manifest(
        plan_sha256=sha256_file(folder / PLAN),
        shards=tuple(entries),
        inputs=plan.num_inputs,
        written=written,
        skipped=len(skips),
        usage=tuple(level_use(level) for level in counts),
    )
    manifest = manifest.model_copy(update={"root": manifest.expected_root()})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return _report(manifest, skips, plan.views)


def level_use(counts: Tensor) -> LevelUse:
    """Return the utilisation of a level from how often each of its codes occurs."""
    use = codebook_use(counts)
    return LevelUse(num_codes=len(counts), codes_used=use.codes_used, perplexity=use.perplexity)


def stored_report(folder: Path) -> EncodeReport:
    """Return the report of a finished dataset from its manifest, with an empty list of skips."""
    return _report(read_json(folder / MANIFEST, Manifest), [], open_plan(folder).views)


def _report(manifest: Manifest, skips: list[Skip], views: int) -> EncodeReport:
    return EncodeReport(
        manifest.inputs,
        manifest.written,
        manifest.skipped,
        skips,
        len(manifest.shards),
        sum(entry.bytes for entry in manifest.shards),
        manifest.usage,
        views,
    )


def expected_bytes(plan: CodePlan) -> int:
    """Estimate the bytes of a dataset on disk (tars, records, manifest) if no image is skipped."""
    full, rest = divmod(plan.num_inputs, plan.samples_per_shard)
    return full * _shard_bytes(plan, plan.samples_per_shard) + _shard_bytes(plan, rest)


def _shard_bytes(plan: CodePlan, samples: int) -> int:
    members = len(plan.member_suffixes()) * -(-samples // plan.samples_per_block)
    json_bytes = 1024 + 256 * members + 18 * sum(plan.num_codes)
    return shard_bytes(plan, samples) + json_bytes if samples else 0


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    existing = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    return shutil.disk_usage(existing).free


def check_space(folder: Path, plan: CodePlan) -> None:
    """Raise ResourceError when the missing shards do not fit on the disk.

    The caller holds the folder's lock.
    """
    done = (int(p.stem) for p in folder.glob("*.json") if p.stem.isdecimal())
    there = sum(_shard_bytes(plan, len(plan.input_range(s))) for s in done if s < plan.num_shards)
    needed = expected_bytes(plan) - there
    # Temporary files of killed writers will be removed.
    free = free_bytes(folder) + sum(p.stat().st_size for p in folder.glob("*.tmp-*"))
    if needed > free:
        raise ResourceError(
            f"{folder}: the codes need about {needed:,} more bytes, but the disk has {free:,} "
            "free; free some space, or choose a folder on another disk"
        )
