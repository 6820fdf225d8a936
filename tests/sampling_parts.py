"""A tiny prior with its tokenizer, and samplings killed at every point."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from disk_faults import in_fork

from imagetok import durable, seeding
from imagetok.config import validate
from imagetok.tokenizers import TokenizerConfig, build_tokenizer
from prior import generation
from prior.build import build_prior
from prior.config import PixelCNNConfig, PriorConfig
from prior.generation import generate, generate_codes
from prior.loading import open_pair

FORMS = ("images", "shards", "npz")


def make_prior_folder(folder: Path, num_classes: int = 3, seed: int = 0) -> Path:
    """A prior of 3 x 3 codes out of 7 and its tokenizer of grey 6 x 6 images."""
    tree = {
        "image": {"mode": "grey", "height": 6, "width": 6},
        "network": {"kind": "conv", "width": 16, "groups": 2, "blocks": 1, "init": "torch"},
        "quantizer": {"kind": "vqvae-ema", "num_codes": 7, "code_dim": 4},
    }
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(seed, "test")
        tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
        tokenizer.save_pretrained(folder / "own")
        config = PriorConfig(
            tokenizer_fingerprint=tokenizer.fingerprint,
            num_codes=(7,),
            grids=((3, 3),),
            num_classes=num_classes,
            class_names=tuple("abc"[:num_classes]),
            model=PixelCNNConfig(width=8, layers=2, head=16),
        )
        prior = build_prior(config).requires_grad_(False).eval()
        prior.embedding.weight.mul_(2)  # as initialised, every logit is almost 0
        prior.save_pretrained(folder / "prior", folder / "own")
    return folder / "prior"


class Sampling:
    """Draws images in chunks of 2, or shards of 2 codes."""

    def __init__(self, source: Path):
        self.prior, self.tokenizer = open_pair(source, None, "cpu")

    def draw(self, out: Path, form: str, n: int) -> None:
        """n images or codes of a seed, in the folder `out`."""
        generation.CHUNK = 2
        if form != "shards":
            place = {"out": out} if form == "images" else {"npz": out / "samples.npz"}
            generate(self.prior, n, tokenizer=self.tokenizer, seed=1, **place)
        else:
            generate_codes(
                self.prior, n, out, tokenizer=self.tokenizer, seed=1, samples_per_shard=2
            )


def kill_at(point: int, work: Callable[[], None]) -> None:
    """Work, with SIGKILL before the point-th fsync or rename."""
    points = iter(range(10**6))

    def tick() -> None:
        if next(points) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, rename = os.fsync, Path.replace
    durable.os.fsync = lambda descriptor: (tick(), fsync(descriptor))[1]
    Path.replace = lambda path, target: (tick(), rename(path, target))[1]
    work()


def kill_everywhere(sampling: Sampling, out: Path, form: str, n: int) -> None:
    """Kill a sampling at every point and rerun it; leaves one folder per point."""
    for point in range(10**6):
        folder = out / f"{point:03d}"

        def work(folder: Path = folder) -> None:
            sampling.draw(folder, form, n)

        end = in_fork(lambda p=point, w=work: kill_at(p, w))
        if end == 0:
            return
        assert end == -signal.SIGKILL, f"point {point} ended with {end}"
        assert in_fork(work) == 0, f"the rerun after point {point} failed"


if __name__ == "__main__":
    mode, source, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    sampling = Sampling(source)
    if mode == "kill":
        for form in FORMS:
            sampling.draw(out / "warm" / form, form, 3)  # what is imported late, once
            kill_everywhere(sampling, out / form, form, 3)
    else:
        for form in FORMS:
            sampling.draw(out / form, form, 7)
