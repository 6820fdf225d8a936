"""Training and encoding speed of the EdVAE paper's CIFAR-10 network against plain PyTorch.

python benchmarks/tokenizer_speed.py [--threads N] [--batches 16 128] [--official DIR] [--out FILE]

`plain` is the textbook form: contiguous tensors, torch.optim.Adam's default implementation and the
quantizer through torch.distributions; encoding is the encoder alone and an argmax.
`ours` is what `imagetok train` and `imagetok encode` run. `official` is the authors' code in a
checkout of github.com/ituvisionlab/EdVAE: its networks, quantizer and Adam. The forms of a job are
interleaved in one process after a warm-up, and medians are reported. The convolution peak is
measured in the same run: a 3 x 3 convolution of 128 channels at 32 x 32, forward and backward.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, RelaxedOneHotCategorical, kl_divergence

from imagetok.config import validate
from imagetok.processes import keep_freed_memory, peak_memory_mb
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from imagetok.training.config import OptimizerConfig
from imagetok.training.optimizer import build_optimizer

TREE = {
    "image": {"mode": "rgb", "height": 32, "width": 32},
    "network": {"kind": "conv", "width": 128},
    "quantizer": {"kind": "edvae"},
}
FORWARD, ENCODER = 1.60e9, 0.73e9  # FLOP an image, counted from the layers (multiply-add = 2)
BACKWARD = 2 * FORWARD
BETA = 5e-7


def plain_training(tokenizer: Tokenizer, images: Tensor) -> Callable[[], object]:
    """One step as the formulas are usually written down."""
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-4)
    codebook = tokenizer.get_parameter("quantizer.codebook")

    def step() -> None:
        logits = tokenizer.get_submodule("encoder")(images - 0.5)
        alpha = (logits.clamp(max=20).exp() + 1).permute(0, 2, 3, 1)
        posterior = Dirichlet(alpha)
        kl = kl_divergence(posterior, Dirichlet(torch.ones_like(alpha))).mean()
        pi = alpha / alpha.sum(dim=-1, keepdim=True)
        y = RelaxedOneHotCategorical(torch.tensor(0.9, device=images.device), probs=pi).rsample()
        z_q = torch.einsum("bhwk,kd->bdhw", y, codebook)
        x_hat = tokenizer.get_submodule("decoder")(z_q)
        loss = nn.functional.mse_loss(x_hat, images - 0.5) + BETA * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class Official(nn.Module):
    """The model of the authors' code, without its trainer."""

    def __init__(self, checkout: Path, device: torch.device):
        super().__init__()
        sys.path.insert(0, str(checkout))
        from models.dirichlet_quantizer import (  # pyright: ignore[reportMissingImports]
            DirichletQuantizer,
        )
        from models.dvae_decoder import DVAEDecoder  # pyright: ignore[reportMissingImports]
        from models.dvae_encoder import DVAEEncoder  # pyright: ignore[reportMissingImports]

        if device.type == "cpu":  # their quantizer puts its prior on a GPU
            torch.Tensor.cuda = lambda self, *_, **__: self
        codebook = SimpleNamespace(num_embeddings=512, embedding_dim=16, init_type="normal")
        network = SimpleNamespace(
            group_count=3, n_blk_per_group=2, channel=128, kw=3, codebook=codebook
        )
        quantizer = SimpleNamespace(temp=0.9, kl_weight=BETA, alpha_type="exp", clamp=("-inf", 20))
        self.encoder, self.decoder = DVAEEncoder(network), DVAEDecoder(network)
        self.quantizer = DirichletQuantizer(codebook, quantizer)
        self.to(device)

    def forward(self, images: Tensor) -> Tensor:
        """The loss of a training step."""
        z_q, kl, _, _ = self.quantizer(self.encoder(images), 0)
        return torch.mean((self.decoder(z_q) - images) ** 2) + kl


def official_training(model: Official, images: Tensor) -> Callable[[], object]:
    """One step of the authors' code."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(images).backward()
        optimizer.step()

    return step


def official_encoding(model: Official, images: Tensor) -> Callable[[], object]:
    """The authors' encoder alone, and an argmax."""

    def encode() -> Tensor:
        with torch.no_grad():
            return model.encoder(images).argmax(dim=1)

    return encode


def our_training(tokenizer: Tokenizer, images: Tensor, bf16: bool) -> Callable[[], object]:
    """One step as the training loop does it."""
    tokenizer = tokenizer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = images.contiguous(memory_format=torch.channels_last)
    optimizer = build_optimizer(tokenizer, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 1e-4

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            out = tokenizer(images, temperature=0.9)
        (out.losses["reconstruction"] + BETA * out.losses["kl"]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_encoding(tokenizer: Tokenizer, images: Tensor) -> Callable[[], object]:
    """The encoder alone."""

    def encode() -> Tensor:
        with torch.no_grad():
            return tokenizer.get_submodule("encoder")(images - 0.5).argmax(dim=1)

    return encode


def our_encoding(tokenizer: Tokenizer, images: Tensor, bf16: bool) -> Callable[[], object]:
    """Codes as `imagetok encode` makes them."""
    tokenizer = tokenizer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = images.contiguous(memory_format=torch.channels_last)

    def encode() -> object:
        return tokenizer.encode(images, precision="bfloat16" if bf16 else "float32")

    return encode


def convolution(device: torch.device, bf16: bool) -> Callable[[], object]:
    """The machine's convolution: forward and backward of one large layer."""
    layer = nn.Conv2d(128, 128, 3, padding=1, device=device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(16, 128, 32, 32, device=device).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            layer(x.requires_grad_()).sum().backward()

    return run


CONVOLUTION = 3 * 2 * 16 * 32 * 32 * 128 * 128 * 9


def medians(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each job, all interleaved."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            begun = time.perf_counter()
            job()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:  # the first is the warm-up
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure, print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument("--official", type=Path, help="checkout of the authors' code")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precisions = [False] if arguments.no_bf16 else [False, True]
    names = {False: "fp32", True: "bf16"}

    peaks = {
        names[bf16]: CONVOLUTION / seconds
        for bf16 in precisions
        for seconds in medians({"": convolution(device, bf16)}, 5).values()
    }
    rows = []
    for batch in arguments.batches:
        torch.manual_seed(0)
        images = torch.rand(batch, 3, 32, 32, device=device)

        def fresh() -> Tokenizer:
            return build_tokenizer(validate(TREE, TokenizerConfig, "benchmark")).to(device)

        training = {"plain fp32": plain_training(fresh(), images)}
        encoding = {"plain fp32": plain_encoding(fresh().eval(), images)}
        if arguments.official:
            model = Official(arguments.official, device)
            training["official fp32"] = official_training(model, images - 0.5)
            encoding["official fp32"] = official_encoding(model, images - 0.5)
        for bf16 in precisions:
            training[f"ours {names[bf16]}"] = our_training(fresh(), images, bf16)
            encoding[f"ours {names[bf16]}"] = our_encoding(fresh().eval(), images, bf16)
        for job, group, flop in (
            ("train", training, FORWARD + BACKWARD),
            ("encode", encoding, ENCODER),
        ):
            seconds = medians(group, arguments.repeats)
            for name, value in seconds.items():
                peak = peaks[name.split()[1]]
                rows.append(
                    {
                        "job": job,
                        "batch": batch,
                        "form": name,
                        "images_per_second": batch / value,
                        "speed_up": seconds["plain fp32"] / value,
                        "share_of_convolution_peak": batch * flop / value / peak,
                    }
                )
    print("| job | batch | form | images/s | against plain | share of conv peak |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['job']} | {row['batch']} | {row['form']} | {row['images_per_second']:.1f} "
            f"| {row['speed_up']:.2f}x | {row['share_of_convolution_peak']:.0%} |"
        )
    result = {
        "threads": arguments.threads,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "convolution_gflop_per_second": {k: v / 1e9 for k, v in peaks.items()},
        "peak_memory_mb": peak_memory_mb(),
        "rows": rows,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
