"""What imagetok does on a GPU: tests, speed of steps, encoding and sampling, and a long training.

python benchmarks/gpu.py --out docs/results/gpu.json --minutes 9 [--data FOLDER] [--run FOLDER]

Every stage is a process of its own that ends with its time; its result is added to the JSON file at
once. Stages whose result is there are not run again, so the same command continues after a stop,
and the training, which gets at least a third of the time, goes on from its newest checkpoint.
Nothing is downloaded.

--data: folder of cifar-10-batches-py; without it there is no training. --run: folder of that
training, outside the repository. --device cpu --small: the same stages with small models, to try
the script where there is no GPU; such figures say nothing about one.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from torch.utils.flop_counter import FlopCounterMode

from imagetok import configs
from imagetok.config import validate
from imagetok.images import from_stored
from imagetok.precision import EncodePrecision, full_float32, has_tf32, tf32
from imagetok.seeding import reseed_global
from imagetok.tokenizers import Tokenizer, build_autoencoder
from imagetok.training.config import TokenizerRun
from imagetok.training.job import build_accelerator
from imagetok.training.loop import rehearse
from imagetok.training.tokenizer import job_on_noise
from prior.build import build_prior
from prior.config import PriorConfig

ROOT = Path(__file__).parent.parent
TRAINED = "papers/edvae/cifar10/edvae"
CONFIGS = (
    *(TRAINED, "papers/edvae/cifar10/dvae", "papers/edvae/cifar10/vqvae-ema"),
    *("cifar10/vqvae-ema", "cifar10/sqvae", "cifar10/vqste", "tiny-imagenet/vqvae2"),
)
SMALL_CONFIGS = ("digits/edvae", "digits/vqvae-ema")
MODES: dict[str, dict[str, object]] = {
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, recorded": {"precision": "bf16", "cuda_graphs": True},
    "bf16, compiled and recorded": {"precision": "bf16", "compile": True, "cuda_graphs": True},
}
OF_ALL = "fp32", "bf16", "bf16, recorded", "bf16, compiled"
"""The modes in which every config is measured; the others are for the trained one."""
EAGER = {"compile": False, "cuda_graphs": False}
WARM_UP, STEPS, SMALL_STEPS = 10, 100, 3
LIMITS = {"tests": 180, "peak": 60, "steps": 90, "encode": 60, "sample": 90}
"""Seconds that a stage may take."""


def wait(device: torch.device) -> None:
    """Wait until the device has done all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, after two that are not counted."""
    taken = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[2:])


def peak(device: torch.device, small: bool) -> dict[str, float]:
    """TFLOP/s of square matrix products."""
    side = 256 if small else 8192
    found = {}
    for name, dtype, setting in (
        ("fp32", torch.float32, full_float32),
        *([("tf32", torch.float32, tf32)] if has_tf32(device) else []),
        ("bf16", torch.bfloat16, full_float32),
    ):
        left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        with setting():
            taken = seconds_of(lambda a=left, b=right: a @ b, device, 3 if small else 20)
        found[name] = 2 * side**3 / taken / 1e12
    return found


def run_of(name: str, **train: object) -> TokenizerRun:
    """The config of a name with other settings of its training."""
    tree = configs(name).tree
    return validate(tree | {"train": tree["train"] | train}, TokenizerRun, name)


def steps(device: torch.device, small: bool, name: str, mode: str) -> dict[str, float]:
    """Milliseconds of an optimizer step on noise, images a second, memory and FLOPs of a step."""
    count = SMALL_STEPS if small else STEPS
    smaller = {"batch_size": 16} if small else {}
    settings = {"steps": 2**20, "trackers": [], **smaller, **MODES[mode]}
    run = run_of(name, **settings)
    accelerator = build_accelerator(run.train, Path("nowhere"), device.type)
    begun = time.perf_counter()
    with closing(_rehearsal(run, accelerator)) as taken:
        _take(taken, SMALL_STEPS if small else WARM_UP)
        wait(device)
        started = time.perf_counter()
        _take(taken, count)
        wait(device)
        seconds = (time.perf_counter() - started) / count
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return {
        "ms": 1e3 * seconds,
        "images_per_second": run.train.batch_size / seconds,
        "start_seconds": started - begun,
        "memory_mb": memory,
        "hours": run_of(name).train.steps * seconds / 3600,
        "tflop": _tflop(run_of(name, **(settings | EAGER)), accelerator),
    }


def _rehearsal(run: TokenizerRun, accelerator: Any) -> Any:
    return rehearse(job_on_noise(run), run.train, accelerator=accelerator, seed=0)


def _take(taken: Iterator[None], count: int) -> None:
    for _ in islice(taken, count):
        pass


def _tflop(run: TokenizerRun, accelerator: Any) -> float:
    """Operations of products and convolutions in a step, in 10^12."""
    with closing(_rehearsal(run, accelerator)) as taken, FlopCounterMode(display=False) as counted:
        next(taken)
    return counted.get_total_flops() / 1e12


def encode(device: torch.device, small: bool, name: str) -> dict[str, float]:
    """Images encoded a second, in each precision, in batches of 512."""
    reseed_global(0)
    run = run_of(name)
    model = build_autoencoder(run.tokenizer).eval().to(device)
    assert isinstance(model, Tokenizer)
    image, batch = run.tokenizer.image, 16 if small else 512
    pixels = torch.randint(256, (batch, image.channels, image.height, image.width), device=device)
    images = from_stored(pixels.to(torch.uint8), image)
    found = {}
    precisions: list[EncodePrecision] = ["float32", "bfloat16"]
    if has_tf32(device):
        precisions.append("tf32")
    for precision in precisions:
        taken = seconds_of(
            lambda p=precision: model.encode(images, precision=p), device, 3 if small else 20
        )
        found[precision] = batch / taken
    return found


def sample(device: torch.device, small: bool, kind: str) -> dict[str, float]:
    """Seconds to sample one image and 64 images of 16 x 16 codes."""
    sizes = {"layers": 2, "heads": 2, "width": 32} if small else {}
    models = {
        "gpt": {"kind": "gpt", "layers": 12, "heads": 6, "width": 384} | sizes,
        "pixelsnail": {"kind": "pixelsnail"} | ({"width": 16, "blocks": 1} if small else {}),
    }
    side = 4 if small else 16
    tree = {
        "tokenizer_fingerprint": "f" * 64, "num_codes": (512,), "grids": ((side, side),),
        "num_classes": 0, "model": models[kind],
    }  # fmt: skip
    reseed_global(0)
    model = build_prior(validate(tree, PriorConfig, kind)).eval().to(device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "one": seconds_of(lambda: model.sample(1, seed=0), device, 3),
        "sixty_four": seconds_of(lambda: model.sample(64, seed=0), device, 1 if small else 3),
    }


STAGES: dict[str, Callable[..., dict[str, float]]] = {
    "peak": peak,
    "steps": steps,
    "encode": encode,
    "sample": sample,
}


def stages(small: bool) -> list[tuple[str, ...]]:
    """All stages but the training, in order."""
    names = SMALL_CONFIGS if small else CONFIGS
    modes = ["fp32", "bf16"] if small else list(OF_ALL)
    return [
        ("tests",),
        ("peak",),
        *(("steps", name, mode) for mode in modes for name in names),
        *([] if small else (("steps", TRAINED, mode) for mode in MODES if mode not in modes)),
        *(("encode", name) for name in names),
        *(("sample", kind) for kind in ("gpt", "pixelsnail")),
    ]


def run_tests(device: str, limit: float) -> dict[str, Any]:
    """The closing line of the tests that need a GPU."""
    if device == "cpu":
        return {"closing": "left out: there is no GPU"}
    words = ["-m", "pytest", "-q", "-m", "gpu", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=limit
    )
    sys.stdout.write(done.stdout[-4000:])
    lines = done.stdout.strip().splitlines()
    return {"closing": lines[-1] if lines else done.stderr[-300:], "exit_code": done.returncode}


def run_stage(stage: tuple[str, ...], arguments: argparse.Namespace, limit: float) -> dict:
    """The result of a stage, or why there is none."""
    try:
        if stage == ("tests",):
            return run_tests(arguments.device, limit)
        words = [sys.executable, __file__, "--stage", json.dumps(stage)]
        words += ["--device", arguments.device] + ["--small"] * arguments.small
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        return {"failed": last[:500]}
    return json.loads(done.stdout.splitlines()[-1])


def train(arguments: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Train for the time that is left; the measures so far."""
    name = SMALL_CONFIGS[0] if arguments.small else TRAINED
    words = [sys.executable, "-m", "imagetok", "train", name, "--out", str(arguments.run)]
    words += ["--resume", "--device", "cpu"] if arguments.device == "cpu" else ["--resume"]
    if not arguments.small:
        words += ["--set", f"data.root={arguments.data}"]
    process = subprocess.Popen([*words, "--set", "train.trackers=[]"], cwd=ROOT)
    try:
        process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # saves a checkpoint
        process.wait(timeout=60)
    log = Path(arguments.run) / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    records = [json.loads(line) for line in lines]
    measured = [record for record in records if record["split"] == "test"]
    return {
        "config": name,
        "steps": run_of(name).train.steps,
        "step": records[-1]["step"] if records else 0,
        "measures": measured[-1] if measured else {},
        "exit_code": process.returncode,
    }


def save(path: Path, found: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(found, indent=2) + "\n")
    beside.replace(path)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def measure(arguments: argparse.Namespace) -> None:
    """Run the stages that fit into the time, then train for the rest of it."""
    end = time.monotonic() + 60 * arguments.minutes
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "none"
    found |= {
        "machine": describe_machine("torch", "torchvision", "accelerate", "transformers")
        | {"gpu": card, "is_small": arguments.small},
        "command": f"python benchmarks/gpu.py --minutes {arguments.minutes:g}",
    }
    results = found.setdefault("results", {})
    has_training = arguments.small or arguments.data is not None
    kept = 60 * arguments.minutes / 3 if has_training else 0.0
    for stage in stages(arguments.small):
        key = ", ".join(stage)
        left = end - time.monotonic()
        if key in results and "failed" not in results[key]:
            continue
        if left < 20 + kept:
            say(f"{key}: no time left")
            continue
        say(f"{key} ...")
        results[key] = run_stage(stage, arguments, min(left - kept, LIMITS[stage[0]]))
        say(f"{key}: {json.dumps(results[key])}")
        save(arguments.out, found)
    left = end - time.monotonic() - 15
    if has_training and left > 20:
        say(f"training for {left:.0f} s")
        results["training"] = train(arguments, left)
        save(arguments.out, found)
        say(json.dumps(results["training"]))


def main() -> None:
    """Run all stages, or one of them as the process of its own."""
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "gpu.json")
    options.add_argument("--minutes", type=float, default=9.0)
    options.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    default = Path(tempfile.gettempdir(), "imagetok-gpu-training")
    options.add_argument("--run", type=Path, default=default)
    options.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options.add_argument("--small", action="store_true")
    options.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        options.error("no GPU was found; --device cpu --small tries the script without one")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.stage is None:
        measure(arguments)
        return
    kind, *names = json.loads(arguments.stage)
    found = STAGES[kind](torch.device(arguments.device), arguments.small, *names)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
