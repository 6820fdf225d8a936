"""Time to find the sizes of photos, and memory to encode many sizes or one.

python benchmarks/native_sizes.py --count 60 --out docs/results/native-sizes.json
JPEGs of about 2 megapixels and mixed sizes, one in four turned by EXIF: seconds to find all
sizes by decoding, as before 0.3, and by headers. Then `encode --size native` of pictures of as
many sizes, and of one size with as many pixels, each in a process of its own: seconds and peak
memory; and of many sizes with a cache of oneDNN's compiled operations that is bounded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image

import imagetok
from imagetok.config import validate
from imagetok.data import FolderConfig, open_images
from imagetok.data.native_sizes import SizedGroups, groups_by_size
from imagetok.images import ImageContract
from imagetok.processes import peak_memory_mb
from imagetok.tokenizers import TokenizerConfig, build_tokenizer

STRIDE = 4


def write_pictures(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Smooth JPEGs of sizes (width, height)."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        coarse = draw.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[274] = 1 if i % 4 else 6
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:03d}.jpg", quality=90, exif=exif)


def seconds_of_sizes(folder: Path) -> dict[str, float]:
    """Both ways in turns, by one thread."""
    contract = ImageContract(height=64, width=64, resize="crop")
    dataset = open_images(FolderConfig(root=str(folder)), "all", contract)
    begun = time.perf_counter()
    decoded = [dataset.decode(i).shape[:2] for i in range(len(dataset))]  # pyright: ignore
    between = time.perf_counter()
    *_, groups = groups_by_size(dataset, STRIDE, 1)
    ended = time.perf_counter()
    assert isinstance(groups, SizedGroups)
    for (height, width), indices in groups.by_size.items():
        for i in indices:
            assert tuple(side // STRIDE * STRIDE for side in decoded[i]) == (height, width)
    return {"decoding": round(between - begun, 2), "headers": round(ended - between, 2)}


def encode(folder: Path, out: Path) -> None:
    """Encode with a new tokenizer, and print seconds and peak memory as JSON."""
    torch.manual_seed(0)
    tree = {
        "image": {"height": 64, "width": 64},
        "network": {"kind": "conv", "width": 32, "groups": 2, "blocks": 1},
        "quantizer": {"kind": "vqvae-ema", "num_codes": 512, "code_dim": 32},
    }
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "benchmark"))
    before, begun = peak_memory_mb(), time.perf_counter()
    done = imagetok.encode(tokenizer, folder, out, size="native", progress=False)
    found = {"seconds": round(time.perf_counter() - begun, 1), "before_mb": round(before)}
    print(json.dumps(found | {"peak_memory_mb": round(peak_memory_mb()), "written": done.written}))


def main() -> None:
    """Measure, print and write the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--count", type=int, default=300, help="pictures, at most 400")
    options.add_argument("--encode", nargs=2, type=Path, help="internal: folder and output")
    arguments = options.parse_args()
    if arguments.encode:
        encode(*arguments.encode)
        return
    count = arguments.count
    record: dict[str, object] = {"count": count, "machine": describe_machine("torch", "pillow")}
    with tempfile.TemporaryDirectory() as name:
        root, draw = Path(name), np.random.default_rng(1)
        photos = [(int(w), int(h)) for w, h in draw.integers(1100, 1800, (count, 2))]
        write_pictures(root / "photos", photos)
        record["seconds to find sizes"] = seconds_of_sizes(root / "photos")
        sides = [(2 * STRIDE * (8 + i % 20), 2 * STRIDE * (8 + i // 20)) for i in range(count)]
        write_pictures(root / "many", sides)
        write_pictures(root / "one", [(140, 120)] * count)
        bounded = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
        for title, folder, more in (
            ("many sizes", "many", {}),
            ("many sizes, bounded cache", "many", bounded),
            ("one size", "one", {}),
        ):
            run = [sys.executable, __file__, "--encode", root / folder, root / f"{title} codes"]
            environment = os.environ | more
            found = subprocess.run(run, check=True, stdout=subprocess.PIPE, env=environment).stdout
            record[title] = json.loads(found.splitlines()[-1])
            print(title, record[title], flush=True)
    print(json.dumps(record, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
