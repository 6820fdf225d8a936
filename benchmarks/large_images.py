"""Peak memory and time of the commands by the size of the images.

python benchmarks/large_images.py --out docs/results/large-images.json
A new tokenizer with a network `vqgan` encodes, decodes, reconstructs, evaluates, diagnoses and
studies the uncertainty of smooth pictures of 64 to 512 pixels, on one thread, each command in a
process of its own: MiB above what the process had before, and seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image
from torch import nn

import imagetok
from imagetok.config import validate
from imagetok.processes import peak_memory_mb
from imagetok.tokenizers import TokenizerConfig, build_tokenizer

SIDES = {64: 160, 128: 160, 256: 48, 512: 24}
"""Pixels along each side -> images; at least twice as many as go together."""
COMMANDS = ("encode", "decode", "reconstruct", "evaluate", "features", "diagnose", "uncertainty")


def write_pictures(folder: Path, side: int, count: int) -> None:
    """Smooth JPEGs."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(count):
        coarse = draw.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:03d}.jpg", quality=90)


def write_tokenizer(folder: Path, side: int, width: int) -> None:
    """A new tokenizer with 8 x 8 pixels per code."""
    torch.manual_seed(0)
    tree = {
        "image": {"height": side, "width": side},
        "network": {"kind": "vqgan", "width": width, "multipliers": [1, 1, 2, 2], "blocks": 1,
                    "latent_channels": 64, "norm_groups": 16},
        "quantizer": {"kind": "edvae", "num_codes": 256, "code_dim": 32},
    }  # fmt: skip
    build_tokenizer(validate(tree, TokenizerConfig, "benchmark")).save_pretrained(folder)


def pooling_network() -> nn.Module:
    """A feature network of one convolution at full resolution."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def run(command: str, root: Path) -> None:
    """Run one command, and print its memory and time as JSON."""
    torch.set_num_threads(1)
    tokenizer, images, codes = root / "tokenizer", root / "images", root / "codes"
    first = sorted(images.iterdir())[:2]
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: imagetok.encode(tokenizer, images, codes, progress=False),
        "decode": lambda: imagetok.decode(tokenizer, codes, root / "decoded", progress=False),
        "reconstruct": lambda: imagetok.reconstruct(tokenizer, first),
        "evaluate": lambda: imagetok.evaluate(tokenizer, images, progress=False),
        "features": lambda: imagetok.evaluate(
            tokenizer, images, features="python:large_images:pooling_network", progress=False
        ),
        "diagnose": lambda: imagetok.diagnose(
            tokenizer, images, out=root / "diagnosis", progress=False
        ),
        "uncertainty": lambda: imagetok.uncertainty(tokenizer, images, progress=False),
    }
    imagetok.Tokenizer.from_pretrained(tokenizer)  # imports what every command needs
    before, begun = peak_memory_mb(), time.perf_counter()
    work[command]()
    seconds = time.perf_counter() - begun
    print(json.dumps({"mb": round(peak_memory_mb() - before), "seconds": round(seconds, 1)}))


def main() -> None:
    """Measure, print and write the figures."""
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path)
    options.add_argument("--width", type=int, default=16, help="channels of the network")
    options.add_argument("--sides", type=int, nargs="+", default=list(SIDES))
    options.add_argument("--run", nargs=2, help="internal: command and folder")
    arguments = options.parse_args()
    if arguments.run:
        run(arguments.run[0], Path(arguments.run[1]))
        return
    record: dict[str, object] = {
        "width": arguments.width,
        "images": {side: SIDES[side] for side in arguments.sides},
        "machine": describe_machine("torch"),
    }
    for side in arguments.sides:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            write_pictures(root / "images", side, SIDES[side])
            write_tokenizer(root / "tokenizer", side, arguments.width)
            found = {}
            for command in COMMANDS:
                call = [sys.executable, __file__, "--run", command, str(root)]
                output = subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout
                found[command] = json.loads(output.splitlines()[-1])
                print(side, command, found[command], flush=True)
            record[str(side)] = found
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
