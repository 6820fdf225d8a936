"""Memory and time of the code reader on synthetic shards that stand for up to 10^7 images.

python benchmarks/codes_at_scale.py --folder DIR [--sizes 100000 1000000 10000000] [--out FILE.json]

Writes random 8x8 codes of 512 (142 bytes an image with label and index) into DIR, opens each
dataset in a process of its own and reads from it. Rates are samples a second by the process's CPU
time; opening and writing are timed by the clock.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from imagetok.codes.dataset_commit import commit_manifest, commit_plan
from imagetok.codes.reader import open_codes
from imagetok.codes.schema import CodePlan, TokenizerId
from imagetok.codes.shard_writer import EncodedPart, write_shard
from imagetok.durable import lock
from imagetok.images import ImageContract

NUM_CODES, GRID = 512, (8, 8)


def make(folder: Path, count: int) -> None:
    """A dataset of `count` images whose codes are drawn, not encoded."""
    plan = CodePlan(
        tokenizer=TokenizerId(fingerprint="0" * 64, name="none"),
        num_codes=(NUM_CODES,),
        grids=(GRID,),
        image=ImageContract(mode="rgb", height=32, width=32),
        source="random",
        source_identity=f"random {count}",
        num_inputs=count,
        labelled=True,
        class_names=("a", "b"),
    )
    with lock(folder):
        commit_plan(folder, plan)
        for shard in range(plan.num_shards):
            write_shard(folder, plan, shard, parts(plan, shard))
        commit_manifest(folder, plan, 0)


def parts(plan: CodePlan, shard: int) -> Iterator[EncodedPart]:
    """Random codes of a shard."""
    draw = np.random.default_rng(shard)
    inputs = plan.input_range(shard)
    for start in range(inputs.start, inputs.stop, plan.samples_per_block):
        keys = np.arange(start, min(start + plan.samples_per_block, inputs.stop))
        codes = draw.integers(0, NUM_CODES, (len(keys), *GRID), dtype=np.uint16)
        yield EncodedPart((codes,), keys % 2, keys, [])


def anonymous_mb() -> float:
    """Resident memory that is no page of a file, in MB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def read(folder: Path) -> dict[str, Any]:
    """Open, then read in every way; memory is what was added to that before opening."""
    before = anonymous_mb()
    begun = time.perf_counter()
    dataset = open_codes(folder)
    opened = time.perf_counter() - begun
    after_opening = anonymous_mb() - before
    count = len(dataset)
    rates = {}
    chosen = random.Random(0).choices(range(count), k=20_000)
    for i in chosen[:3000]:
        dataset[i]  # the first touch of each shard is timed below

    def rate(name: str, samples: int, work: Iterable[Any]) -> None:
        begun = time.process_time()
        for _ in work:
            pass
        rates[name] = round(samples / (time.process_time() - begun))

    rate("random one by one", len(chosen), (dataset[i] for i in chosen))
    rate("one by one", min(count, 200_000), (dataset[i] for i in range(min(count, 200_000))))
    rate("batches of 64", count, dataset.batches(64))
    peak = anonymous_mb() - before
    fresh = open_codes(folder)
    rate(
        "stream, batches of 64, shuffled, every shard verified",
        count,
        fresh.stream(64, shuffle=True),
    )
    return {
        "images": count,
        "shards": len(dataset.manifest.shards),
        "bytes_per_image": round(sum(e.bytes for e in dataset.manifest.shards) / count, 1),
        "open_ms": round(1000 * opened, 1),
        "memory_after_opening_mb": round(after_opening, 1),
        "memory_after_reading_all_mb": round(peak, 1),
        "memory_after_shuffled_stream_mb": round(anonymous_mb() - before, 1),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
        "samples_per_second": rates,
    }


def main() -> None:
    """Write, and read in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    results = []
    for size in arguments.sizes:
        folder = arguments.folder / str(size)
        begun = time.perf_counter()
        if not (folder / "manifest.json").is_file():
            make(folder, size)
        seconds = time.perf_counter() - begun
        command = [sys.executable, __file__, "--folder", ".", "--read", str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append({**json.loads(done.stdout), "write_seconds": round(seconds, 1)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    machine = describe_machine("torch", "numpy")
    found = {"machine": machine, "writer_peak_memory_mb": round(peak), "datasets": results}
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
