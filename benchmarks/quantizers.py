"""Speed and memory of the quantizers against plain PyTorch and vector-quantize-pytorch.

python benchmarks/quantizers.py [--threads N] [--repeats N] [--only NAME] [--out FILE.json]

Each job is forward, backward and the codebook's update on the 8,192 vectors of 128 grids of 8 x 8.
`plain` is the textbook form with matrices of all vectors and codes (plain_quantizers.py), `library`
is vector-quantize-pytorch where it has the method, `ours` is imagetok. The forms of a job are
interleaved in one process after a warm-up; times are medians of CPU seconds with one thread, else
of wall seconds. Memory is what one step adds at its peak, in a process of its own; a ratio takes
less than 1 MiB as 1. Every form gets the layout that it is used with: `ours` channels_last, the
others contiguous. The allocator is as it comes; training and encoding in imagetok set it to keep
freed memory.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import plain_quantizers as plain
import torch
from plain_quantizers import DEVICE, TEMPERATURE, Step
from torch import Tensor

from imagetok.config import Section
from imagetok.quantizers import (
    DVAEConfig,
    EdVAEConfig,
    FSQConfig,
    GSVQConfig,
    LFQConfig,
    ResidualVQConfig,
    RotationVQConfig,
    SimVQConfig,
    SQVAEConfig,
    VMFSQVAEConfig,
    VQConfig,
    VQEMAConfig,
    VQSTEConfig,
    build_quantizer,
)
from imagetok.quantizers.codebook_init_reset import NoReset


class Job(NamedTuple):
    """A quantizer at one size; forms build a step from (K, D)."""

    name: str
    num_codes: int
    code_dim: int
    forms: dict[str, Callable[[int, int], Step]]

    @property
    def channels(self) -> int:
        """Of the encoder output: logits or features."""
        return self.num_codes if self.name in ("dVAE", "EdVAE") else self.code_dim


def ours(config: type[Section], **settings: object) -> Callable[[int, int], Step]:
    """The quantizer of a config section, with its update."""

    def build(num_codes: int, code_dim: int) -> Step:
        sizes = {"num_codes": num_codes, "code_dim": code_dim}
        known = {key: value for key, value in sizes.items() if key in config.model_fields}
        section = config.model_validate({**known, **settings})
        quantizer = build_quantizer(section).to(DEVICE)  # pyright: ignore[reportArgumentType]
        generator = torch.Generator().manual_seed(0)

        def step(h: Tensor) -> Tensor:
            out = quantizer(h, temperature=TEMPERATURE)
            quantizer.update(out.stats, generator)
            return out.z_q.sum() + sum(out.losses.values(), h.new_zeros(()))

        return step

    return build


VQ = {
    "plain": plain.ema,
    "library": plain.library("VectorQuantize", decay=0.99, commitment_weight=1.0),
    "ours": ours(VQEMAConfig, init="normal"),
}
SQVAE = {"plain": plain.sqvae, "ours": ours(SQVAEConfig)}
LEARNED = {"learnable_codebook": True, "ema_update": False}
FREE = {"init": "normal", "reset": NoReset()}
JOBS = [
    Job("VQ-VAE-EMA", 512, 16, VQ),
    Job("VQ-VAE-EMA", 8192, 64, VQ),
    Job(
        "VQ-VAE",
        512,
        16,
        {
            "plain": plain.nearest(),
            "library": plain.library("VectorQuantize", **LEARNED, rotation_trick=False),
            "ours": ours(VQConfig, **FREE),
        },
    ),
    Job(
        "VQ-STE++",
        512,
        16,
        {
            "plain": plain.nearest(through="affine"),
            "library": plain.library(
                "VectorQuantize", **LEARNED, rotation_trick=False, affine_param=True
            ),
            "ours": ours(VQSTEConfig, **FREE),
        },
    ),
    Job("SQ-VAE I", 512, 16, SQVAE),
    Job("SQ-VAE I", 8192, 64, SQVAE),
    Job("vMF SQ-VAE", 512, 16, {"plain": plain.vmf, "ours": ours(VMFSQVAEConfig)}),
    Job("GS-VQ-VAE", 512, 16, {"plain": plain.gs_vq, "ours": ours(GSVQConfig)}),
    Job("dVAE", 512, 16, {"plain": plain.dvae, "ours": ours(DVAEConfig)}),
    Job("EdVAE", 512, 16, {"plain": plain.edvae, "ours": ours(EdVAEConfig)}),
    Job(
        "FSQ",
        512,
        3,
        {
            "plain": plain.fsq,
            "library": plain.library("FSQ", levels=[8, 8, 8]),
            "ours": ours(FSQConfig, levels=(8, 8, 8)),
        },
    ),
    Job(
        "LFQ",
        512,
        9,
        {
            "plain": plain.lfq,
            "library": plain.library("LFQ"),
            "ours": ours(LFQConfig, temperature=1.0),
        },
    ),
    Job(
        "residual VQ",
        512,
        16,
        {
            "plain": plain.nearest(levels=2),
            "library": plain.library(
                "ResidualVQ", num_quantizers=2, rotation_trick=False, **LEARNED
            ),
            "ours": ours(ResidualVQConfig, num_levels=2),
        },
    ),
    Job(
        "SimVQ",
        512,
        16,
        {
            "plain": plain.nearest(through="linear"),
            "library": plain.library("SimVQ", rotation_trick=False),
            "ours": ours(SimVQConfig),
        },
    ),
    Job(
        "rotation trick",
        512,
        16,
        {
            "plain": plain.nearest(turns=True),
            "library": plain.library("VectorQuantize", **LEARNED, rotation_trick=True),
            "ours": ours(RotationVQConfig),
        },
    ),
]


def prepared(job: Job, form: str) -> Callable[[int], object]:
    """A form of a job as a function of how many grids it works on."""
    torch.manual_seed(0)
    layout = torch.channels_last if form == "ours" else torch.contiguous_format
    h = torch.randn(128, job.channels, 8, 8, device=DEVICE).contiguous(memory_format=layout)
    step = job.forms[form](job.num_codes, job.code_dim)

    def run(grids: int = 128) -> None:
        step(h[:grids].detach().requires_grad_()).backward()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


def added_memory(at: tuple[int, str]) -> float:
    """MiB that a step adds at its peak; in a process of its own, after a small first step."""
    torch.set_num_threads(1)
    run = prepared(JOBS[at[0]], at[1])
    run(2)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(128)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here (Linux)
    before = _resident("VmRSS")
    run(128)
    return (_resident("VmHWM") - before) / 2**10


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def medians(job: Job, repeats: int) -> dict[str, float]:
    """Median seconds of a step of each form, all interleaved."""
    clock = time.perf_counter
    if DEVICE.type == "cpu" and torch.get_num_threads() == 1:
        clock = time.process_time  # other programs disturb it less
    runs = {form: prepared(job, form) for form in job.forms}
    times: dict[str, list[float]] = {form: [] for form in job.forms}
    for repeat in range(repeats + 1):
        for form, run in runs.items():
            begun = clock()
            run(128)
            if repeat:  # the first is the warm-up
                times[form].append(clock() - begun)
    return {form: statistics.median(values) for form, values in times.items()}


def main() -> None:
    """Measure, print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="jobs whose name starts so")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = []
    print("| quantizer | K | D | form | ms | plain / form | added MiB | plain / form |")
    print("|---|---|---|---|---|---|---|---|")
    for number, job in enumerate(JOBS):
        if not job.name.startswith(arguments.only):
            continue
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            found = pool.map(added_memory, [(number, form) for form in job.forms], chunksize=1)
        memory = dict(zip(job.forms, found, strict=True))
        seconds = medians(job, arguments.repeats)
        for form in job.forms:
            row = {
                "quantizer": job.name,
                "num_codes": job.num_codes,
                "code_dim": job.code_dim,
                "form": form,
                "milliseconds": 1e3 * seconds[form],
                "speed_up": seconds["plain"] / seconds[form],
                "added_mb": memory[form],
                "memory_ratio": max(memory["plain"], 1.0) / max(memory[form], 1.0),
            }
            rows.append(row)
            print(
                f"| {job.name} | {job.num_codes} | {job.code_dim} | {form} "
                f"| {row['milliseconds']:.1f} | {row['speed_up']:.2f}x "
                f"| {row['added_mb']:.0f} | {row['memory_ratio']:.1f}x |"
            )
    result = {
        "command": " ".join(["python", *sys.argv]),
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vector-quantize-pytorch": version("vector-quantize-pytorch"),
        "rows": rows,
    }
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
