"""Training and encoding speed of the network `vqgan` against transformers' and diffusers' own.

python benchmarks/vqgan_speed.py [--size 64] [--batch 4] [--width 64] [--out FILE.json]

All have the same layers: encoder, 1 x 1 convolutions at the latent, decoder; no quantizer. `janus`
is JanusVQVAE of transformers, `diffusers` its VQModel. A training step is forward, mean squared
error, backward and AdamW; theirs in torch's default memory format and optimizer, `ours` as
`imagetok train` runs it. Encoding is the encoder alone.
All forms take turns in one process, on one thread, after a warm-up. Reported are medians of the
process's CPU time, which other programs on the machine disturb less than elapsed time.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import VQModel  # pyright: ignore[reportPrivateImportUsage]
from machine import describe_machine
from torch import Tensor, nn
from transformers import JanusVQVAE, JanusVQVAEConfig

from imagetok.config import validate
from imagetok.networks.vqgan import VQGANConfig, VQGANDecoder, VQGANEncoder
from imagetok.processes import keep_freed_memory, peak_memory_mb
from imagetok.training.config import OptimizerConfig
from imagetok.training.optimizer import build_optimizer

MULTIPLIERS = (1, 2, 4)
LATENT, CODE = 256, 8


class Ours(nn.Module):
    """The network as a tokenizer has it."""

    def __init__(self, width: int):
        super().__init__()
        tree = {"width": width, "multipliers": list(MULTIPLIERS), "latent_channels": LATENT}
        config = validate(tree, VQGANConfig, "benchmark")
        self.encoder = VQGANEncoder(config, 3, CODE)
        self.decoder = VQGANDecoder(config, CODE, 3)


class Janus(nn.Module):
    """The network of JanusVQVAE."""

    def __init__(self, width: int):
        super().__init__()
        model = JanusVQVAE(
            JanusVQVAEConfig(
                base_channels=width,
                channel_multiplier=list(MULTIPLIERS),
                num_res_blocks=2,
                latent_channels=LATENT,
                embed_dim=CODE,
                num_embeddings=2,
            )
        )
        self.encoder = nn.Sequential(model.encoder, model.quant_conv)
        self.decoder = nn.Sequential(model.post_quant_conv, model.decoder)


class Diffusers(nn.Module):
    """The network of VQModel."""

    def __init__(self, width: int):
        super().__init__()
        *fine, _ = MULTIPLIERS
        model = VQModel(
            block_out_channels=tuple(width * m for m in MULTIPLIERS),
            down_block_types=(*("DownEncoderBlock2D" for _ in fine), "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D" for _ in fine)),
            layers_per_block=2,
            latent_channels=LATENT,
            vq_embed_dim=CODE,
            num_vq_embeddings=2,
        )
        self.encoder = nn.Sequential(model.encoder, model.quant_conv)
        self.decoder = nn.Sequential(model.post_quant_conv, model.decoder)


NETWORKS: dict[str, type[nn.Module]] = {"janus": Janus, "diffusers": Diffusers, "ours": Ours}


def training(network: nn.Module, images: Tensor, step: Callable[[], None], bf16: bool) -> None:
    """One optimizer step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        x_hat = network.get_submodule("decoder")(network.get_submodule("encoder")(images))
    nn.functional.mse_loss(x_hat.float(), images).backward()
    step()


def forms(width: int, batch: int, size: int) -> dict[str, dict[str, Callable[[], object]]]:
    """The jobs by name of the job and form."""
    found: dict[str, dict[str, Callable[[], object]]] = {"train": {}, "encode": {}}
    for name, kind in NETWORKS.items():
        for precision in ("fp32", "bf16"):
            torch.manual_seed(0)
            network = kind(width)
            images = torch.rand(batch, 3, size, size)
            if name != "ours":
                optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
            else:
                network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                images = images.contiguous(memory_format=torch.channels_last)
                optimizer = build_optimizer(network, OptimizerConfig())
                for group in optimizer.param_groups:
                    group["lr"] = 1e-4
            add(found, f"{name} {precision}", network, images, optimizer)
    return found


def add(
    found: dict[str, dict[str, Callable[[], object]]],
    form: str,
    network: nn.Module,
    images: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Add the two jobs of a form."""
    bf16 = form.endswith("bf16")

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def encode() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            network.get_submodule("encoder")(images)

    found["train"][form] = lambda: training(network, images, step, bf16)
    found["encode"][form] = encode


def medians(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each job, all interleaved."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for repeat in range(repeats + 1):
        for name, job in jobs.items():
            begun = time.process_time()
            job()
            if repeat:  # the first is the warm-up
                times[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure, print the table, and store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    numbers = {
        name: sum(p.numel() for p in network(arguments.width).parameters())
        for name, network in NETWORKS.items()
    }
    assert len({*numbers.values()}) == 1, numbers
    machine = describe_machine("torch", "transformers", "diffusers")
    rows = []
    for job, jobs in forms(arguments.width, arguments.batch, arguments.size).items():
        seconds = medians(jobs, arguments.repeats)
        rows += [
            {
                "job": job,
                "form": form,
                "images_per_second": arguments.batch / value,
                "against_janus": seconds["janus fp32"] / value,
                "against_diffusers": seconds["diffusers fp32"] / value,
            }
            for form, value in seconds.items()
        ]
    print("| job | form | images/s | against janus fp32 | against diffusers fp32 |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['job']} | {row['form']} | {row['images_per_second']:.2f} "
            f"| {row['against_janus']:.2f}x | {row['against_diffusers']:.2f}x |"
        )
    result = {
        **{key: getattr(arguments, key) for key in ("size", "batch", "width", "repeats")},
        "parameters": numbers["ours"],
        "threads": 1,
        "machine": machine,
        "peak_memory_mb": peak_memory_mb(),
        "rows": rows,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
