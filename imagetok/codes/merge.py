"""Merging code datasets of one tokenizer by hard-linking their shards, without encoding again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagetok.codes.dataset_commit import EncodeReport, commit_manifest, commit_plan, is_complete
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.codes.reader import CodeDataset, check_shard_file, open_codes
from imagetok.codes.results import Encoded
from imagetok.codes.schema import CodePlan, MergedPart, shard_name
from imagetok.config import differences
from imagetok.data.class_names import both_lists
from imagetok.durable import link_or_copy, lock, write_json
from imagetok.errors import ConfigError, ShardError

_SOURCE_FIELDS = {"source", "source_identity", "num_inputs", "parts"}
_FIELD_TEXTS = {
    "samples_per_shard": "images per shard (--samples-per-shard)",
    "samples_per_block": "images per block (1024, or --samples-per-shard if that is smaller)",
    "views": "views of each image (--views)",
    "crop_range": "size of the picture that views are cut from (--crop-range)",
    "precision": "arithmetic of the encoder (--precision)",
    "labelled": "whether the images have labels (--data)",
    "class_names": "names of the classes (--data)",
}
"""Plan field -> description for messages, with the command-line option that sets it."""


def merge(datasets: Sequence[CodeDataset | Path | str], out: Path | str) -> Encoded:
    """Merge code datasets of one tokenizer into the folder `out`, in the given order.

    >>> imagetok.merge(["codes/photos", "codes/paintings"], "codes/all").written

    Shards are verified, then hard-linked, or copied if `out` is on another disk; a rerun continues.
    Source indices run through all sources, as if they had been encoded one after the other.
    Raises ShardError for a damaged or unfinished dataset, for datasets that differ in more than
    their source, and for a source that occurs twice; ConfigError when `out` holds another dataset.
    """
    if isinstance(datasets, str | Path):
        raise ConfigError(f"datasets: expected a list of folders, found {str(datasets)!r}")
    folders = [d.folder if isinstance(d, CodeDataset) else Path(d) for d in datasets]
    if not folders:
        raise ConfigError("datasets: expected one or more code datasets, found none")
    return Encoded.of(Path(out), merge_codes(folders, Path(out)))


def merge_codes(folders: Sequence[Path], out: Path) -> EncodeReport:
    """Merge finished code datasets in the given order; a rerun continues.

    Every shard is hashed, then hard-linked, or copied to another file system. Source indices run
    through the datasets, as if their sources had been encoded one after the other: the indices of
    the second start at the first's number of inputs, skipped ones included.
    Raises ShardError for a damaged or unfinished dataset, for plans that differ in more than their
    source, and for a source that occurs twice; ConfigError when `out` holds another dataset.
    """
    datasets = [open_codes(folder) for folder in folders]
    plan = merged_plan(datasets)
    with lock(out):
        commit_plan(out, plan)
        number = offset = 0
        for dataset in datasets:
            for shard in range(dataset.plan.num_shards):
                if not is_complete(out, plan, number):
                    _place(dataset, shard, out, number, offset)
                number += 1
            offset += dataset.plan.num_inputs
        return commit_manifest(out, plan, plan.num_inputs)


def merged_plan(datasets: Sequence[CodeDataset]) -> CodePlan:
    """Return the plan of the merged dataset; raises ShardError as `merge_codes` does."""
    first = datasets[0]
    for other in datasets[1:]:
        _check_same(first, other)
    owner: dict[str, Path] = {}
    for dataset in datasets:
        for part in merged_parts(dataset.plan):
            if part.whole_identity in owner:
                raise ShardError(
                    f"{owner[part.whole_identity]} and {dataset.place}: both hold images of "
                    f"{part.source}, which would be in the merged dataset twice; merge "
                    "datasets of different images"
                )
            owner[part.whole_identity] = dataset.folder
    parts = tuple(part for dataset in datasets for part in merged_parts(dataset.plan))
    joined = {
        "source": " + ".join(part.source for part in parts),
        "source_identity": " + ".join(part.source_identity for part in parts),
        "num_inputs": sum(part.num_inputs for part in parts),
        "parts": parts,
    }
    smallest = min(dataset.plan.micro_batch for dataset in datasets)
    return first.plan.model_copy(update=joined | {"micro_batch": smallest})


def merged_parts(plan: CodePlan) -> tuple[MergedPart, ...]:
    """Return the parts of a merged plan; for any other plan, the plan itself as its only part."""
    return plan.parts or (
        MergedPart(
            source=plan.source,
            source_identity=plan.source_identity,
            num_inputs=plan.num_inputs,
        ),
    )


def _check_same(first: CodeDataset, other: CodeDataset) -> None:
    """Raise ShardError for two datasets that differ in more than their source."""
    expected, found = first.plan.tokenizer, other.plan.tokenizer
    check_same_tokenizer(
        str(other.place),
        found.fingerprint,
        expected.fingerprint,
        f"that of {first.place} ({expected.name})",
        "encode the images of one of the two datasets again with the tokenizer of the other",
        name=found.name,
    )
    # The tokenizer is compared above, its name may differ; the images per forward pass are what
    # suited the device, and change codes by rounding alone.
    without = {*_SOURCE_FIELDS, "tokenizer", "micro_batch"}
    changed = differences(
        first.plan.model_dump(mode="json", exclude=without),
        other.plan.model_dump(mode="json", exclude=without),
    )
    if "samples_per_shard" in changed:
        changed.pop("samples_per_block", None)  # follows from samples_per_shard
    if changed:
        lines = "\n".join(
            f"  {_FIELD_TEXTS.get(k, k)}: expected {_compared(k, a, b)}"
            for k, (a, b) in changed.items()
        )
        raise ShardError(
            f"{other.place}: expected a code dataset with the settings of {first.place}, found "
            f"different ones\n{lines}\nmake one of them again with the options of the other"
        )


def _compared(key: str, expected: Any, found: Any) -> str:
    if key == "class_names":
        return both_lists(found or (), expected or ())
    return f"{expected!r}, found {found!r}"


def _place(dataset: CodeDataset, shard: int, out: Path, number: int, offset: int) -> None:
    """Link shard `shard` of a dataset as shard `number` of the merged one; write its record."""
    entry = dataset.manifest.shards[shard]
    record = dataset.record(shard)
    check_shard_file(dataset.folder, entry)
    file = f"{shard_name(number)}.tar"
    (out / file).unlink(missing_ok=True)  # left by a run that stopped before writing the record
    is_copy = not link_or_copy(dataset.folder / entry.file, out / file)
    placed = record.model_copy(
        update={
            "shard": number,
            "file": file,
            "first_input": record.first_input + offset,
            "end_input": record.end_input + offset,
            "skipped": tuple(
                skip.model_copy(update={"index": skip.index + offset}) for skip in record.skipped
            ),
        }
    )
    if is_copy:
        check_shard_file(out, placed)
    write_json(out / f"{shard_name(number)}.json", placed.model_dump(mode="json"))
