"""Training speed of several tokenizer configs beside each other.

python benchmarks/method_speed.py CONFIG... [--threads 1] [--steps 20]

Steps of all configs are interleaved in one process on random images, so that whatever else the
machine does falls on all alike. Prints the median images/s of each.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from imagetok import seeding
from imagetok.config import load_config
from imagetok.data import ImageBatch
from imagetok.processes import keep_freed_memory
from imagetok.tokenizers import build_tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.optim import build_optimizer
from imagetok.training.tokenizer import loss_function


def training_step(config: TokenizerRun) -> Callable[[int], None]:
    """Forward, backward, optimizer and codebook update, as the loop does them."""
    seeding.reseed_global(0)
    model = build_tokenizer(config.tokenizer).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = build_optimizer(model, config.train.optimizer)
    loss = loss_function(config.objective, model.image, model.num_codes)
    image = config.tokenizer.image
    size = (config.train.batch_size, image.channels, image.height, image.width)
    images = torch.randint(256, size, dtype=torch.uint8)
    none = torch.full((len(images),), -1)
    batch = ImageBatch(images, none, none)

    def step(index: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = config.train.learning_rate.at(index)
        out = loss(model, batch, index, seeding.generator(0, "noise", index))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stats = {k.removeprefix("stats."): v for k, v in out.sums.items() if "stats." in k}
        model.update(stats, seeding.generator(0, "update", index))

    return step


def main() -> None:
    """Measure and print one row a config."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    configs = {path: load_config(path, TokenizerRun) for path in arguments.configs}
    steps = {path: training_step(config) for path, config in configs.items()}
    times: dict[str, list[float]] = {path: [] for path in configs}
    for index in range(arguments.steps + 2):
        for path, step in steps.items():
            begun = time.perf_counter()
            step(index)
            times[path].append(time.perf_counter() - begun)
    for path, config in configs.items():
        rate = config.train.batch_size / statistics.median(times[path][2:])  # two to warm up
        print(f"{path}: {rate:.0f} images/s")


if __name__ == "__main__":
    main()
