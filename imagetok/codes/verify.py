"""Checking a code dataset byte by byte."""

from pathlib import Path

from imagetok.codes.reader import open_codes
from imagetok.codes.schema import MANIFEST, PLAN, shard_name
from imagetok.errors import ShardError


def verify_codes(folder: Path) -> list[str]:
    """Verify every byte of a code dataset; return one line per fault, none for an intact dataset.

    Raises ShardError when the folder is not a finished code dataset.
    """
    dataset = open_codes(folder)
    faults: list[str] = []
    for shard in range(dataset.plan.num_shards):
        try:
            dataset.checked_shard(shard)
        except ShardError as error:
            faults.append(str(error))
    known = {PLAN, MANIFEST}
    for shard in range(dataset.plan.num_shards):
        known |= {f"{shard_name(shard)}.tar", f"{shard_name(shard)}.json"}
    faults += [
        f"{path}: not part of the dataset"
        for path in sorted(folder.iterdir())
        if path.name not in known
    ]
    return faults
