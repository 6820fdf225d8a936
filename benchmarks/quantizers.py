"""Speed and memory of the quantizers against plain PyTorch and vector-quantize-pytorch.

python benchmarks/quantizers.py [--threads N] [--repeats N] [--only NAME] [--out FILE.json]

Each job is forward, backward and the codebook's update on the 8,192 vectors of 128 grids of 8 x 8.
`plain` is the textbook form with matrices of all vectors and codes: for VQ-VAE-EMA that of
rosinality/vq-vae-2-pytorch, for SQ-VAE that of sony/sqvae, for dVAE and EdVAE torch's own
functions and distributions. `library` is vector-quantize-pytorch, `ours` is imagetok. The forms of
a job are interleaved in one process after a warm-up; times are medians of CPU seconds with one
thread, else of wall seconds. Memory is what one step adds at its peak, in a process of its own.
Every form gets the layout that it is used with: `ours` channels_last, the others contiguous. The
allocator is as it comes; training and encoding in imagetok set it to keep freed memory.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet, RelaxedOneHotCategorical, kl_divergence

from imagetok.config import Section
from imagetok.quantizers import build_quantizer
from imagetok.quantizers.dvae import DVAEConfig
from imagetok.quantizers.edvae import EdVAEConfig
from imagetok.quantizers.sqvae import SQVAEConfig
from imagetok.quantizers.vq import VQEMAConfig

Step = Callable[[Tensor], Tensor]
"""Encoder output to something whose gradient flows everywhere."""
TEMPERATURE = 0.9
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def plain_vq(num_codes: int, code_dim: int) -> Step:
    """Distances and one-hot rows of all vectors and codes; sums by a matrix product."""
    codes = torch.randn(code_dim, num_codes, device=DEVICE)
    sizes, sums = torch.ones(num_codes, device=DEVICE), codes.clone()

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1)
        flat = vectors.detach().reshape(-1, code_dim)
        distances = (
            flat.pow(2).sum(1, keepdim=True) - 2 * flat @ codes + codes.pow(2).sum(0, keepdim=True)
        )
        indices = (-distances).max(dim=1).indices
        one_hot = F.one_hot(indices, num_codes).type(flat.dtype)
        z_q = F.embedding(indices.view(vectors.shape[:-1]), codes.T)
        sizes.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
        sums.mul_(0.99).add_(flat.T @ one_hot, alpha=0.01)
        total = sizes.sum()
        smoothed = (sizes + 1e-5) / (total + num_codes * 1e-5) * total
        commitment = (z_q.detach() - vectors).pow(2).mean()
        out = vectors + (z_q - vectors).detach()
        codes.copy_(sums / smoothed)
        return out.permute(0, 3, 1, 2).sum() + commitment

    return step


def library_vq(num_codes: int, code_dim: int) -> Step:
    """vector-quantize-pytorch's layer with the same decay and commitment."""
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(
        dim=code_dim,
        codebook_size=num_codes,
        decay=0.99,
        commitment_weight=1.0,
        accept_image_fmap=True,
    ).to(DEVICE)

    def step(h: Tensor) -> Tensor:
        z_q, _, commitment = layer(h)
        return z_q.sum() + commitment.sum()

    return step


def plain_sqvae(num_codes: int, code_dim: int) -> Step:
    """Distances, softmax, its logarithm and the Gumbel sample, each a matrix of its own."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)
    log_variance = torch.tensor(3.0, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1).contiguous()
        flat = vectors.view(-1, code_dim)
        precision = 0.5 / (1 + log_variance.exp()).clamp(min=1e-10)
        distances = (
            flat.pow(2).sum(1, keepdim=True) + codes.pow(2).sum(1) - 2 * torch.matmul(flat, codes.T)
        )
        logits = -precision * distances
        probabilities, log_probabilities = logits.softmax(-1), logits.log_softmax(-1)
        u = torch.rand_like(logits)
        gumbel = -torch.log(-torch.log(u + 1e-10) + 1e-10)
        weights = ((logits + gumbel) / TEMPERATURE).softmax(-1)
        z_q = torch.mm(weights, codes).view(vectors.shape)
        discrete = (probabilities * log_probabilities).sum() / len(h)
        continuous = ((vectors - z_q).pow(2) * precision).sum() / len(h)
        return z_q.permute(0, 3, 1, 2).sum() + discrete + continuous

    return step


def plain_dvae(num_codes: int, code_dim: int) -> Step:
    """F.gumbel_softmax and einsum."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        weights = F.gumbel_softmax(h, tau=TEMPERATURE, dim=1)
        z_q = torch.einsum("bkhw,kd->bdhw", weights, codes)
        q = h.softmax(dim=1)
        kl = (q * torch.log(q * num_codes + 1e-10)).sum(dim=1).mean()
        return z_q.sum() + kl

    return step


def plain_edvae(num_codes: int, code_dim: int) -> Step:
    """torch.distributions."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)
    temperature = torch.tensor(TEMPERATURE, device=DEVICE)

    def step(h: Tensor) -> Tensor:
        alpha = (h.clamp(max=20).exp() + 1).permute(0, 2, 3, 1)
        kl = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha))).mean()
        pi = alpha / alpha.sum(dim=-1, keepdim=True)
        weights = RelaxedOneHotCategorical(temperature, probs=pi).rsample()
        return torch.einsum("bhwk,kd->bdhw", weights, codes).sum() + kl

    return step


def ours(config: type[Section], **settings: object) -> Callable[[int, int], Step]:
    """The quantizer of a config section, with its update."""

    def build(num_codes: int, code_dim: int) -> Step:
        section = config.model_validate({"num_codes": num_codes, "code_dim": code_dim, **settings})
        quantizer = build_quantizer(section).to(DEVICE)  # pyright: ignore[reportArgumentType]
        generator = torch.Generator().manual_seed(0)

        def step(h: Tensor) -> Tensor:
            out = quantizer(h, temperature=TEMPERATURE)
            quantizer.update(out.stats, generator)
            return out.z_q.sum() + torch.stack([*out.losses.values()]).sum()

        return step

    return build


VQ = {"plain": plain_vq, "library": library_vq, "ours": ours(VQEMAConfig, init="normal")}
SQVAE = {"plain": plain_sqvae, "ours": ours(SQVAEConfig)}
JOBS = [
    Job("VQ-VAE-EMA", 512, 16, VQ),
    Job("VQ-VAE-EMA", 8192, 64, VQ),
    Job("SQ-VAE I", 512, 16, SQVAE),
    Job("SQ-VAE I", 8192, 64, SQVAE),
    Job("dVAE", 512, 16, {"plain": plain_dvae, "ours": ours(DVAEConfig)}),
    Job("EdVAE", 512, 16, {"plain": plain_edvae, "ours": ours(EdVAEConfig)}),
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
                "memory_ratio": memory["plain"] / memory[form],
            }
            rows.append(row)
            print(
                f"| {job.name} | {job.num_codes} | {job.code_dim} | {form} "
                f"| {row['milliseconds']:.1f} | {row['speed_up']:.2f}x "
                f"| {row['added_mb']:.0f} | {row['memory_ratio']:.1f}x |"
            )
    result = {
        "threads": arguments.threads,
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
