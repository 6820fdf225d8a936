"""Seconds to sample a batch of code grids with PixelSNAIL: incrementally, and by forward passes.

python benchmarks/sampling.py [--grids 8 16 32] [--batches 1 16] [--repeats 3] [--out FILE.json]

The model has the published size: 128 channels, 4 blocks of 4 units, K = 512. Every form gives the
logits of all positions from the same random codes; drawing from them is left out, it costs all
forms the same. `plain` runs the network on the whole grid for each position, `rows` on the rows so
far. Of these a few passes are timed and the rest extrapolated: `plain` is one pass times the
positions, `rows` a trapezoid over passes of one row, half of the rows and all. `incremental` is
timed whole, with preparing the weights. Forms are interleaved after a warm-up; medians, and one
run for grids of 32 x 32 and more.

--whole: instead, seconds of `Prior.sample` for one image (in a micro-batch of its own, and in the
usual one, which is padded) and for 64, with a GPT and a PixelSNAIL of 16 x 16 codes, added to FILE
as `whole`.

On a CPU one thread runs and its CPU time is read, so other jobs on the machine count little.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from machine import describe_machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from imagetok.processes import keep_freed_memory
from prior.base import NO_LABEL
from prior.build import build_prior
from prior.config import GPTConfig, ModelConfig, PixelSNAILConfig, PriorConfig
from prior.pixelsnail import PixelSNAILPrior

NUM_CODES = 512
KINDS: dict[str, ModelConfig] = {
    "gpt": GPTConfig(layers=12, heads=6, width=384),
    "pixelsnail": PixelSNAILConfig(),
}
CONVOLUTION = 2 * 16 * 32 * 32 * 128 * 128 * 9


def make_prior(side: int, device: torch.device) -> PixelSNAILPrior:
    """The published size on a square grid."""
    config = PriorConfig(
        tokenizer_fingerprint="f" * 64,
        num_codes=(NUM_CODES,),
        grids=((side, side),),
        num_classes=0,
        model=PixelSNAILConfig(),
    )
    torch.manual_seed(0)
    prior = build_prior(config)
    assert isinstance(prior, PixelSNAILPrior)
    return prior.to(device).eval()


def forward(prior: PixelSNAILPrior, codes: Tensor, rows: int) -> Tensor:
    """Logits of the first rows."""
    whole = prior.background
    prior.background = whole[:, :, :rows]
    (logits,) = prior((codes[:, :rows],), codes.new_full((len(codes),), NO_LABEL))
    prior.background = whole
    return logits


def incremental(prior: PixelSNAILPrior, codes: Tensor, positions: int) -> tuple[list[Tensor], int]:
    """Logits of the first positions, and the bytes that the stepper keeps for the batch."""
    stepper = prior.stepper(codes.new_full((len(codes),), NO_LABEL))
    sequence = codes.flatten(1)
    logits = [stepper.next_logits(sequence[:, t - 1] if t else None) for t in range(positions)]
    weights = {t.untyped_storage().data_ptr() for t in tensors(vars(stepper)["weights"])}
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(stepper)}
    return logits, sum(size for address, size in kept.items() if address not in weights)


def tensors(holder: object) -> list[Tensor]:
    """All tensors inside objects, lists and tuples."""
    if isinstance(holder, Tensor):
        return [holder]
    if isinstance(holder, list | tuple):
        return [t for one in holder for t in tensors(one)]
    if isinstance(holder, nn.Module):
        return list(holder.parameters())
    return [t for one in getattr(holder, "__dict__", {}).values() for t in tensors(one)]


def seconds(job: Callable[[], object]) -> float:
    """CPU seconds on a CPU, wall seconds on a GPU."""
    on_gpu = torch.cuda.is_available()
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    begun = clock()
    job()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begun


def convolution_peak(device: torch.device) -> float:
    """FLOP a second of one large convolution, forward."""
    layer = nn.Conv2d(128, 128, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(16, 128, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    layer(x)
    return CONVOLUTION / statistics.median(seconds(lambda: layer(x)) for _ in range(7))


def measure(side: int, batch: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Medians of one grid and batch, beside the machine's convolution."""
    peak = convolution_peak(device)
    prior = make_prior(side, device)
    codes = torch.randint(NUM_CODES, (batch, side, side), device=device)
    heights = [1, max(1, side // 2), side]
    forward(prior, codes, 1)
    incremental(prior, codes, side + 1)  # warm-up: a row and the first step of the next
    passes: list[list[float]] = []
    times: list[float] = []
    for _ in range(repeats):
        passes.append([seconds(lambda rows=rows: forward(prior, codes, rows)) for rows in heights])
        times.append(seconds(lambda: incremental(prior, codes, side * side)))
    one, half, whole = (statistics.median(column) for column in zip(*passes, strict=True))
    first, middle, last = heights
    mean = ((one + half) * (middle - first) + (half + whole) * (last - middle)) / 2 / (last - first)
    with FlopCounterMode(display=False) as counter:
        expected = forward(prior, codes[:1], side).flatten(2)[:, :, : 2 * side]
    found, cache = incremental(prior, codes, 2 * side)
    difference = torch.stack(found, 2)[:1] - expected
    taken = statistics.median(times)
    return {
        "grid": side,
        "batch": batch,
        "plain_seconds": whole * side * side,
        "rows_seconds": mean * side * side,
        "incremental_seconds": taken,
        "speed_up_over_plain": whole * side * side / taken,
        "speed_up_over_rows": mean * side * side / taken,
        "one_forward_seconds": whole,
        "prepare_seconds": seconds(prior.prepare),
        "convolution_gflop_per_second": peak / 1e9,
        "arithmetic_bound_seconds": batch * counter.get_total_flops() / peak,
        "cache_mb": cache / 2**20,
        "largest_difference": float(difference.abs().max()),
    }


def sampled(kind: str, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of `Prior.sample` for one image and for 64."""
    config = PriorConfig(
        tokenizer_fingerprint="f" * 64,
        num_codes=(NUM_CODES,),
        grids=((16, 16),),
        num_classes=0,
        model=KINDS[kind],
    )
    torch.manual_seed(0)
    prior = build_prior(config).to(device).eval()
    prior.sample(1)  # warm-up
    found = {"parameters": float(sum(p.numel() for p in prior.parameters()))}
    for name, count, size in (("one", 1, 1), ("one_padded", 1, None), ("sixty_four", 64, None)):
        draw = partial(prior.sample, count, micro_batch=size)
        times = [seconds(draw) for _ in range(repeats)]
        found[f"{name}_seconds"] = statistics.median(times)
    return found | {"images_per_second": 64 / found["sixty_four_seconds"]}


@torch.no_grad()
def main() -> None:
    """Measure, print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, object] = {
        "threads": 1,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "clock": "wall" if device.type == "cuda" else "process CPU time",
    }
    if arguments.whole:
        found = {kind: sampled(kind, device, arguments.repeats) for kind in KINDS}
        print(json.dumps(found, indent=1))
        if arguments.out:
            there = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
            machine = describe_machine("torch", "transformers")
            there["whole"] = {"machine": machine, **result, "models": found}
            arguments.out.write_text(json.dumps(there, indent=1) + "\n")
        return
    rows = []
    print("| grid | batch | plain s | rows s | incremental s | plain / | rows / | cache MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for side in arguments.grids:
        for batch in arguments.batches:
            row = measure(side, batch, arguments.repeats if side < 32 else 1, device)
            rows.append(row)
            print(
                f"| {side}x{side} | {batch} | {row['plain_seconds']:.2f} "
                f"| {row['rows_seconds']:.2f} | {row['incremental_seconds']:.3f} "
                f"| {row['speed_up_over_plain']:.0f}x | {row['speed_up_over_rows']:.0f}x "
                f"| {row['cache_mb']:.1f} |",
                flush=True,
            )
            if arguments.out:  # after each: the last ones take long
                there = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
                found = {**there, **result, "rows": rows}
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
