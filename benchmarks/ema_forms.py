"""How many codes come into use with each form of VQ-VAE-EMA's moving averages.

python benchmarks/ema_forms.py --data FOLDER [--runs FOLDER] [--only PART] [--out FILE.json]

`stream`: K = 512, D = 64, codes that start as N(0, 1), and 3,000 steps of N(0, scale^2) vectors,
new ones at every step or the same, equal for each form and moved by no encoder. `recipe`: VQ-VAE-2
of the Kaokore report (`papers/kaokore/vqvae2`) at a quarter of its width, 3,500 steps of 128 images
of CIFAR-10. FOLDER holds `cifar-10-batches-py`, whose files may be compressed (.xz). A run that is
interrupted goes on.
"""

import argparse
import json
import lzma
import time
from pathlib import Path
from typing import get_args

import torch
from machine import describe_machine

import imagetok
from imagetok import seeding
from imagetok.comparison.table import markdown_row, rule
from imagetok.quantizers import VQEMAConfig, build_quantizer
from imagetok.quantizers.functional import code_sums, nearest_codes
from imagetok.quantizers.vq import Averages

FORMS: tuple[Averages, ...] = get_args(Averages)
NUM_CODES, CODE_DIM, STEPS = 512, 64, 3000
SCALES = (0.1, 0.5)
STREAMS = ((1024, "new"), (2048, "new"), (1024, "the same"))
"""Vectors a step, and whether every step has new ones or the same."""
RECIPE = ("zeros", "increments")


def codes_used_on_stream(form: Averages, scale: float, count: int, kind: str) -> int:
    """Codes that the last of the steps uses, each of `count` vectors."""
    seeding.reseed_global(0)
    config = VQEMAConfig(num_codes=NUM_CODES, code_dim=CODE_DIM, init="normal", averages=form)
    quantizer = build_quantizer(config)
    generator = torch.Generator().manual_seed(1)
    counts = torch.zeros(NUM_CODES)
    vectors = torch.empty(0)
    for step in range(STEPS):
        if step == 0 or kind == "new":
            vectors = scale * torch.randn(count, CODE_DIM, generator=generator)
        indices = nearest_codes(vectors, quantizer.get_buffer("codebook"))
        counts, sums = code_sums(vectors, indices, NUM_CODES)
        quantizer.update({"counts": counts, "sums": sums}, generator)
    return int((counts > 0).sum())


def stream() -> list[dict[str, object]]:
    """One row for each stream and scale, with the codes in use by form."""
    rows: list[dict[str, object]] = []
    for count, kind in STREAMS:
        for scale in SCALES:
            used = {form: codes_used_on_stream(form, scale, count, kind) for form in FORMS}
            rows.append({"vectors": count, "at every step": kind, "scale": scale, **used})
            cells = [f"{count:,}, {kind}", str(scale), *map(str, used.values())]
            print(markdown_row(cells), flush=True)
    return rows


def unpacked(folder: Path, runs: Path) -> Path:
    """A folder whose CIFAR-10 files are not compressed: `folder`, or a copy below `runs`."""
    source, target = folder / "cifar-10-batches-py", runs / "data" / "cifar-10-batches-py"
    if not list(source.glob("*.xz")):
        return folder
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        is_packed = file.suffix == ".xz"
        copy = target / (file.stem if is_packed else file.name)
        if not copy.exists():
            data = file.read_bytes()
            copy.write_bytes(lzma.decompress(data) if is_packed else data)
    return target.parent


def train_recipe(form: Averages, root: Path, runs: Path) -> dict[str, object]:
    """Train, or finish, one run; return its last measures."""
    level = {
        "kind": "vqvae-ema",
        "num_codes": NUM_CODES,
        "code_dim": CODE_DIM,
        "decay": 0.99,
        "averages": form,
        "init": "normal",
        "reset": {"kind": "none"},
    }
    run = imagetok.train(
        "papers/kaokore/vqvae2",
        out=runs / form,
        set={
            "data": {"source": "cifar10", "root": str(root)},
            "tokenizer.image.height": 32,
            "tokenizer.image.width": 32,
            "tokenizer.network.width": 32,
            "tokenizer.network.residual_width": 8,
            "tokenizer.quantizers": [level, level],
            "train.steps": 3500,
            "train.evaluate_every": 500,
            "train.checkpoint_every": 3500,
            "train.trackers": [],
            "train.workers": 0,
        },
        resume=True,
    )
    row = {name: run.measures[name] for name in ("codes_used_level0", "codes_used_level1", "mse")}
    top, bottom, mse = row.values()
    print(markdown_row([form, f"{top}", f"{bottom}", f"{1e3 * mse:.2f}"]), flush=True)
    return {"averages": form, **row}


def main() -> None:
    """Measure, print the tables, and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/ema-forms"))
    parser.add_argument("--only", choices=["stream", "recipe"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    result: dict[str, object] = {}
    if arguments.only != "recipe":
        print(markdown_row(["vectors a step", "scale", *FORMS]), rule(len(FORMS) + 2), sep="\n")
        result["stream"] = stream()
    if arguments.only != "stream":
        root = unpacked(arguments.data, arguments.runs)
        names = ["averages", "codes, top", "codes, bottom", "MSE x 10^3"]
        print(markdown_row(names), rule(len(names)), sep="\n")
        result["recipe"] = [train_recipe(form, root, arguments.runs) for form in RECIPE]
    result["minutes"] = round((time.perf_counter() - start) / 60, 1)
    result["machine"] = describe_machine("torch", "imagetok")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
