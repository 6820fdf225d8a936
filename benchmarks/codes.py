"""Size and speed of stored codes: our shards beside WebDataset, parquet and .npy, in one run.

python benchmarks/codes.py [--images 10000] [--maps 10000000] [--repeats 3] [--out FILE.json]

Codes of 8 x 8 with K = 512, drawn with the frequencies of a codebook of perplexity about 400, with
labels. WebDataset holds one .npy and one .cls an image and is read by its own decoder; parquet and
.npy are what `imagetok export` writes, parquet read by pyarrow row by row and in batches. Formats
are interleaved, after a warm-up; medians. One process's reads and writes are timed by its CPU time
(`--wall`: by the clock), reads with two loader workers by the clock, from the first batch on.

`--maps` writes so many code maps and measures, in a fresh process, the memory of opening them and
of reading 100,000 at random. `durability` is the time that hashing, fsync and renaming take in a
full shard by the clock, against the CPU time of encoding its images by the network of
configs/cifar10/edvae.yaml.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]
import torch
from machine import describe_machine
from torch.utils.data import DataLoader
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

from imagetok import durable
from imagetok.codes import shard_writer
from imagetok.codes.dataset_commit import commit_manifest, commit_plan
from imagetok.codes.interchange.export import Form, export_codes
from imagetok.codes.reader import CodeDataset, open_codes
from imagetok.codes.schema import CodePlan, TokenizerId
from imagetok.codes.shard_writer import EncodedPart, write_shard
from imagetok.config import load_config
from imagetok.images import ImageContract
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun

Clock = Callable[[], float]
Note = Callable[[str, str, float], None]
K, SIDE, BATCH, CLASSES = 512, 8, 64, 10


def make_codes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, 8, 8) and labels (N,)."""
    draw = np.random.default_rng(0)
    weights = draw.gamma(4.0, size=K)
    codes = draw.choice(K, size=(count, SIDE, SIDE), p=weights / weights.sum())
    return codes.astype("<u2"), draw.integers(0, CLASSES, count)


def make_plan(count: int) -> CodePlan:
    """As `imagetok encode` would make it."""
    return CodePlan(
        tokenizer=TokenizerId(fingerprint="f" * 64, name="none"),
        num_codes=(K,),
        grids=((SIDE, SIDE),),
        image=ImageContract(height=32, width=32),
        source="synthetic",
        source_identity="",
        num_inputs=count,
        labelled=True,
        class_names=tuple(map(str, range(CLASSES))),
    )


def write_ours(folder: Path, codes: np.ndarray, labels: np.ndarray, count: int) -> None:
    """A code dataset of `count` images, which repeat those given."""
    plan = make_plan(count)
    folder.mkdir()
    commit_plan(folder, plan)
    for shard in range(plan.num_shards):
        inputs = plan.input_range(shard)
        places = np.arange(inputs.start, inputs.stop) % len(codes)
        keys = np.arange(inputs.start, inputs.stop, dtype=np.uint64)
        write_shard(folder, plan, shard, [EncodedPart((codes[places],), labels[places], keys, [])])
    commit_manifest(folder, plan, 0)


def write_webdataset(folder: Path, codes: np.ndarray, labels: np.ndarray) -> None:
    """One .npy and one .cls an image, in two shards."""
    folder.mkdir()
    size = -(-len(codes) // 2)
    with ShardWriter(str(folder / "%05d.tar"), maxcount=size, verbose=0) as out:
        for i, (code, label) in enumerate(zip(codes, labels, strict=True)):
            out.write({"__key__": f"{i:08d}", "codes.npy": code, "cls": int(label)})


def webdataset(folder: Path) -> Any:
    """Samples by the library's own decoder."""
    urls = sorted(map(str, folder.glob("*.tar")))
    return WebDataset(urls, shardshuffle=False).decode().to_tuple("codes.npy", "cls")


def rows_of_parquet(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Row by row, as numpy arrays."""
    for batch in pq.ParquetFile(path).iter_batches(columns=["codes", "label"]):
        codes = batch["codes"].flatten().flatten().to_numpy().reshape(-1, SIDE, SIDE)
        yield from zip(codes, batch["label"].to_numpy(), strict=True)


def batches_of_parquet(path: Path) -> Iterator[torch.Tensor]:
    """int64 tensors, as a model wants them."""
    for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["codes", "label"]):
        codes = batch["codes"].flatten().flatten().to_numpy().reshape(-1, SIDE, SIDE)
        yield torch.from_numpy(codes.astype(np.int64))


def batches_of_webdataset(folder: Path) -> Iterator[torch.Tensor]:
    """int64 tensors, as a model wants them."""
    for codes, _ in webdataset(folder).batched(BATCH):
        yield torch.from_numpy(np.asarray(codes).astype(np.int64))


def drain(samples: Iterator[object]) -> int:
    """Read everything."""
    return sum(1 for _ in samples)


def seconds(job: Callable[[], object], clock: Clock) -> float:
    """Of one call."""
    begun = clock()
    job()
    return clock() - begun


class Repeated(torch.utils.data.Dataset[object]):
    """A dataset several times over, so that reading it takes as long as it takes others once."""

    def __init__(self, dataset: CodeDataset, times: int):
        self.dataset, self.times = dataset, times

    def __len__(self) -> int:
        return len(self.dataset) * self.times

    def __getitems__(self, indices: list[int]) -> object:
        return self.dataset.__getitems__([i % len(self.dataset) for i in indices])


def first(batch: object) -> object:
    """A batch as it is: `__getitems__` has already put it together."""
    return batch


def with_workers(dataset: Any, **options: Any) -> float:
    """Samples a second of two loader workers, from the first batch on."""
    batches = iter(DataLoader(dataset, num_workers=2, **options))
    next(batches)
    begun = time.perf_counter()
    return drain(batches) * BATCH / (time.perf_counter() - begun)


def write_all(folder: Path, count: int, note: Note, clock: Clock) -> None:
    """Each format once; parquet and .npy are made of our shards."""
    codes, labels = make_codes(count)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ours = folder / "imagetok"

    def export(form: Form) -> Callable[[], object]:
        return lambda: export_codes(open_codes(ours), folder / form, form)

    jobs: dict[str, Callable[[], object]] = {
        "imagetok": lambda: write_ours(ours, codes, labels, count),
        "webdataset": lambda: write_webdataset(folder / "webdataset", codes, labels),
        "parquet": export("parquet"),
        "npy": export("npy"),
    }
    for form, job in jobs.items():
        note(form, "write", count / seconds(job, clock))


def read_all(folder: Path, count: int, note: Note, clock: Clock) -> None:
    """Every way of reading each format, once."""
    ours, theirs, parquet = folder / "imagetok", folder / "webdataset", folder / "parquet"
    dataset = open_codes(ours)
    note("imagetok", "first pass", count / seconds(lambda: drain(dataset.batches(BATCH)), clock))
    jobs: list[tuple[str, str, Callable[[], object]]] = [
        ("imagetok", "one by one", lambda: drain(dataset[i] for i in range(count))),
        ("webdataset", "one by one", lambda: drain(iter(webdataset(theirs)))),
        ("parquet", "one by one", lambda: drain(rows_of_parquet(parquet))),
        ("imagetok", "batches", lambda: drain(dataset.batches(BATCH))),
        ("webdataset", "batches", lambda: drain(batches_of_webdataset(theirs))),
        ("parquet", "batches", lambda: drain(batches_of_parquet(parquet))),
        ("imagetok", "shuffled batches", lambda: drain(dataset.batches(BATCH, shuffle=True))),
    ]
    for form, what, job in jobs:
        times = 1 if form == "webdataset" else 10  # the others are over too soon to be timed
        note(
            form,
            what,
            count * times / seconds(lambda j=job, t=times: [j() for _ in range(t)], clock),
        )
    options = {"batch_size": BATCH, "collate_fn": first}
    note("imagetok", "two workers", with_workers(Repeated(dataset, 20), **options))
    note(
        "webdataset",
        "two workers",
        with_workers(webdataset(theirs).batched(BATCH), batch_size=None),
    )


def measure_formats(folder: Path, count: int, repeats: int, clock: Clock) -> dict[str, Any]:
    """Bytes and samples a second of each format."""
    rates: dict[str, dict[str, list[float]]] = {}

    def note(form: str, what: str, value: float) -> None:
        rates.setdefault(form, {}).setdefault(what, []).append(value)

    write_all(folder, count, lambda *_: None, clock)
    for _ in range(repeats):
        write_all(folder, count, note, clock)
        read_all(folder, count, note, clock)
    codes = next(iter(webdataset(folder / "webdataset")))[0]
    assert np.array_equal(codes, open_codes(folder / "imagetok")[0].codes[0])
    sizes = {
        "imagetok": sum(p.stat().st_size for p in (folder / "imagetok").glob("*.tar")),
        "webdataset": sum(p.stat().st_size for p in (folder / "webdataset").iterdir()),
        "parquet": (folder / "parquet").stat().st_size,
        "npy": sum(p.stat().st_size for p in (folder / "npy").glob("*.npy")),
    }
    return {
        form: {
            "bytes": size / count,
            "bytes over arrays": size / count / (SIDE * SIDE * 2 + 4 + 8),
            **{what: statistics.median(found) for what, found in rates[form].items()},
        }
        for form, size in sizes.items()
    }


def measure_memory(folder: Path, maps: int) -> dict[str, float]:
    """Of a fresh process that opens so many code maps and reads 100,000 at random."""
    codes, labels = make_codes(65536)
    begun = time.perf_counter()
    write_ours(folder / "maps", codes, labels, maps)
    written = time.perf_counter() - begun
    program = (
        "import sys, time, numpy as np\n"
        "from imagetok.codes.reader import open_codes\n"
        "def kib(name):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith(name))\n"
        "before = kib('RssAnon')\n"
        "begun = time.perf_counter()\n"
        "dataset = open_codes(sys.argv[1], verify='size')\n"
        "opened, after = time.perf_counter() - begun, kib('RssAnon')\n"
        "chosen = np.random.default_rng(0).integers(0, len(dataset), 100_000)\n"
        "for i in chosen.tolist():\n"
        "    dataset[i]\n"
        "print(opened, (after - before) / 1024, (kib('RssAnon') - before) / 1024,\n"
        "      kib('RssFile') / 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "maps")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(durable.__file__).parent.parent)},
    )
    opened, own, read, mapped = map(float, done.stdout.split())
    return {
        "maps": maps,
        "bytes": sum(p.stat().st_size for p in (folder / "maps").glob("*.tar")),
        "write_seconds": written,
        "open_seconds": opened,
        "mb_after_opening": own,
        "mb_after_reading": read,
        "mb_of_files_mapped": mapped,
    }


def measure_durability(folder: Path, images: int = 256) -> dict[str, float]:
    """What hashing, fsync and renaming take of encoding a full shard."""
    codes, labels = make_codes(65536)
    spent = [0.0]

    def timed(job: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            begun = time.perf_counter()
            try:
                return job(*arguments)
            finally:
                spent[0] += time.perf_counter() - begun

        return run

    hashed, fsync, rename = shard_writer.sha256_file, os.fsync, Path.replace
    shard_writer.sha256_file = timed(hashed)  # pyright: ignore[reportAttributeAccessIssue]
    os.fsync, Path.replace = timed(fsync), timed(rename)  # pyright: ignore[reportAttributeAccessIssue]
    begun = time.perf_counter()
    write_ours(folder / "shard", codes, labels, len(codes))
    whole = time.perf_counter() - begun
    shard_writer.sha256_file, os.fsync, Path.replace = hashed, fsync, rename
    path = Path(__file__).parent.parent / "configs" / "cifar10" / "edvae.yaml"
    tokenizer = build_tokenizer(load_config(path, TokenizerRun).tokenizer).eval()
    pixels = torch.rand(64, 3, 32, 32)
    tokenizer.encode(pixels)
    begun = time.process_time()
    for _ in range(images // 64):
        tokenizer.encode(pixels)
    encoding = (time.process_time() - begun) / images * len(codes)
    return {
        "durable_seconds": spent[0],
        "writing_seconds": whole,
        "encoding_seconds": encoding,
        "share": spent[0] / (encoding + whole),
    }


def main() -> None:
    """Measure, print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--maps", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, object] = {
        "machine": describe_machine("torch", "numpy", "webdataset", "pyarrow"),
        "clock": "wall" if arguments.wall else "process CPU time",
        "images": arguments.images,
    }
    with tempfile.TemporaryDirectory(prefix="codes-") as name:
        folder = Path(name)
        (folder / "formats").mkdir()
        clock = time.perf_counter if arguments.wall else time.process_time
        result["formats"] = measure_formats(
            folder / "formats", arguments.images, arguments.repeats, clock
        )
        print(json.dumps(result, indent=1), flush=True)
        result["durability"] = measure_durability(folder)
        print(json.dumps(result["durability"], indent=1), flush=True)
        if arguments.maps:
            result["memory"] = measure_memory(folder, arguments.maps)
            print(json.dumps(result["memory"], indent=1), flush=True)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
