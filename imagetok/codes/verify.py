"""Checking a code dataset byte by byte."""

from pathlib import Path

from imagetok.codes.reader import open_codes
from imagetok.codes.schema import MANIFEST, PLAN, shard_name
from imagetok.errors import ShardError


def verify_codes(folder: Path) -> list[str]:
    """What is wrong with a code dataset, one line a fault; empty when every byte is as written.

    Raises ShardError when the folder is no finished code dataset at all.
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
