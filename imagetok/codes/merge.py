"""Several code datasets of one tokenizer as one, without encoding or moving a byte again."""

from collections.abc import Sequence
from pathlib import Path

from imagetok.codes.dataset_commit import EncodeReport, commit_manifest, commit_plan, is_complete
from imagetok.codes.fingerprint import check_same_tokenizer
from imagetok.codes.reader import CodeDataset, check_shard_file, open_codes
from imagetok.codes.results import Encoded
from imagetok.codes.schema import CodePlan, MergedPart, shard_name
from imagetok.config import differences
from imagetok.durable import link_or_copy, lock, write_json
from imagetok.errors import ConfigError, ShardError

_OF_THE_SOURCE = {"source", "source_identity", "num_inputs", "parts"}
_CHOSEN_BY = {
    "samples_per_shard": "images a shard (--samples-per-shard)",
    "samples_per_block": "images a block (1024, or --samples-per-shard if that is fewer)",
    "precision": "the encoder's arithmetic (--bf16)",
    "micro_batch": "images a forward pass (of `imagetok sample`: by its --device)",
    "labelled": "whether the images have labels (--data)",
    "class_names": "the names of the classes (--data)",
}
"""Plan field -> what it is to those who make datasets, and the option that it comes from."""


def merge(datasets: Sequence[CodeDataset | Path | str], out: Path | str) -> Encoded:
    """Join code datasets of one tokenizer in the folder `out`, in the order given.

    >>> imagetok.merge(["codes/photos", "codes/paintings"], "codes/all").written

    Shards are checked and hard-linked, or copied to another disk; a rerun continues. Source
    indices count through all sources, as if they had been encoded one after the other.
    Raises ShardError for a damaged or unfinished dataset, for datasets that differ in anything but
    the source, and for a source that two of them share; ConfigError when `out` holds another.
    """
    if isinstance(datasets, str | Path):
        raise ConfigError(f"datasets: expected a list of folders, found {str(datasets)!r}")
    folders = [d.folder if isinstance(d, CodeDataset) else Path(d) for d in datasets]
    if not folders:
        raise ConfigError("datasets: expected one code dataset or more, found none")
    return Encoded.of(Path(out), merge_codes(folders, Path(out)))


def merge_codes(folders: Sequence[Path], out: Path) -> EncodeReport:
    """Join finished code datasets, in the order given; a rerun continues.

    Every shard is hashed and then hard-linked (copied to another file system). Source indices
    count through the datasets, as if their sources had been encoded one after the other: those of
    the second begin at the first's number of inputs, skipped ones included.
    Raises ShardError for a damaged or unfinished dataset, for plans that differ in anything but
    the source, and for a source that two of them share; ConfigError when `out` holds another.
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
    """The plan of datasets joined; see `merge_codes` for what is refused."""
    first = datasets[0]
    for other in datasets[1:]:
        _check_same(first, other)
    owner: dict[str, Path] = {}
    for dataset in datasets:
        for part in merged_parts(dataset.plan):
            whole = part.source_identity.split("[:")[0]  # of `--limit N` the first N are the same
            if whole in owner:
                raise ShardError(
                    f"{owner[whole]} and {dataset.place}: both hold images of {part.source}; "
                    "expected different images, or these would count twice"
                )
            owner[whole] = dataset.folder
    parts = tuple(part for dataset in datasets for part in merged_parts(dataset.plan))
    joined = {
        "source": " + ".join(part.source for part in parts),
        "source_identity": " + ".join(part.source_identity for part in parts),
        "num_inputs": sum(part.num_inputs for part in parts),
        "parts": parts,
    }
    return first.plan.model_copy(update=joined)


def merged_parts(plan: CodePlan) -> tuple[MergedPart, ...]:
    """What a plan joins; of one that joins nothing, itself."""
    return plan.parts or (
        MergedPart(
            source=plan.source,
            source_identity=plan.source_identity,
            num_inputs=plan.num_inputs,
        ),
    )


def _check_same(first: CodeDataset, other: CodeDataset) -> None:
    """Refuse two datasets that differ in anything but the source."""
    ours, theirs = first.plan.tokenizer, other.plan.tokenizer
    check_same_tokenizer(
        str(other.place),
        theirs.fingerprint,
        ours.fingerprint,
        f"that of {first.place} ({ours.name})",
        "encode the images of one of them again, with the other's tokenizer",
        name=theirs.name,
    )
    without = {*_OF_THE_SOURCE, "tokenizer"}  # its name is only for people
    changed = differences(
        first.plan.model_dump(mode="json", exclude=without),
        other.plan.model_dump(mode="json", exclude=without),
    )
    if "samples_per_shard" in changed:
        changed.pop("samples_per_block", None)  # follows from it
    if changed:
        lines = "\n".join(
            f"  {_CHOSEN_BY.get(k, k)}: expected {a!r}, found {b!r}"
            for k, (a, b) in changed.items()
        )
        raise ShardError(
            f"{other.place}: expected a code dataset made as {first.place} was, found another\n"
            f"{lines}\nmake one of them again, with the options of the other"
        )


def _place(dataset: CodeDataset, shard: int, out: Path, number: int, offset: int) -> None:
    """Shard `shard` of a dataset as shard `number` of the merged one, then its record."""
    entry = dataset.manifest.shards[shard]
    record = dataset.record(shard)
    check_shard_file(dataset.folder, entry)
    file = f"{shard_name(number)}.tar"
    (out / file).unlink(missing_ok=True)  # of a run that was stopped before the record
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
