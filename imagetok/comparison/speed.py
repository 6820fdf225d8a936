"""Speed of training and encoding: medians on one thread, methods measured alternately."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from imagetok import seeding
from imagetok.data import NO_LABEL, ImageBatch, ImageDataset
from imagetok.images import from_stored
from imagetok.processes import one_thread, with_channels_last
from imagetok.tokenizers import Autoencoder, Tokenizer
from imagetok.training.config import TokenizerRun
from imagetok.training.job import arithmetic
from imagetok.training.optimizer import build_optimizer
from imagetok.training.schedules import values_at
from imagetok.training.tokenizer import loss_function

ENCODE_BATCH = 64
_WARM_UP, _ROUNDS, _SECONDS = 2, 20, 30.0
_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def measure_speed(
    methods: Mapping[str, tuple[TokenizerRun, Path]],
    dataset: ImageDataset,
    device: torch.device,
    check: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """Measure `train_images_per_second` and `encode_images_per_second` of each method.

    methods: name -> (config, folder of the finished tokenizer). A round is one training step and
    one encoding of every method, with the first images of `dataset`, so that other load on the
    machine affects all methods equally. A VAE is not encoded. check: called often; may raise to
    stop.
    """
    work: dict[tuple[str, str, int], Callable[[int], None]] = {}
    for name, (config, folder) in methods.items():
        size = config.train.batch_size // config.train.accumulation
        batch = dataset.read([i % len(dataset) for i in range(max(size, ENCODE_BATCH))])
        work[name, "train", size] = _training(config, folder, batch.images[:size], device)
        if config.tokenizer.latent is not None:  # a VAE has no codes
            continue
        work[name, "encode", ENCODE_BATCH] = _encoding(folder, batch.images[:ENCODE_BATCH], device)
    seconds: dict[tuple[str, str, int], list[float]] = {key: [] for key in work}
    begun = time.perf_counter()
    with one_thread():
        for index in range(_WARM_UP + _ROUNDS):
            for key, run in work.items():
                check()
                seconds[key].append(_timed(run, index, device))
            if index > _WARM_UP + 1 and time.perf_counter() - begun > _SECONDS * len(methods):
                break  # large models are measured for fewer rounds
    rates: dict[str, dict[str, float]] = {name: {} for name in methods}
    for (name, what, size), taken in seconds.items():
        rates[name][f"{what}_images_per_second"] = size / statistics.median(taken[_WARM_UP:])
    return rates


def _training(
    config: TokenizerRun, folder: Path, images: Tensor, device: torch.device
) -> Callable[[int], None]:
    """Return a function that runs one optimizer step, including the codebook update.

    The learning rate is 0, so that repeating the same images does not make the weights diverge.
    """
    model = Autoencoder.from_pretrained(folder).requires_grad_(True).train()
    with_channels_last(model.to(device))
    optimizer = build_optimizer(model, config.train.optimizer)
    loss = loss_function(config.objective, model.image, model.num_codes)
    schedules = config.objective.schedules
    none = torch.full((len(images),), NO_LABEL)
    batch = ImageBatch(images.to(device), none, none)
    precision = _DTYPES[config.train.autocast]

    def step(index: int) -> None:
        noise = seeding.generator(0, "noise", index, device=device)
        with arithmetic(config.train):
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                out = loss(model, batch, values_at(schedules, index), noise)
            out.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.update(out.sums | out.rows, seeding.generator(0, "update", index))

    return step


def _encoding(folder: Path, images: Tensor, device: torch.device) -> Callable[[int], None]:
    model = Tokenizer.from_pretrained(folder).to(device)
    batch = from_stored(images.to(device), model.image)

    def encode(index: int) -> None:
        model.encode(batch, generator=seeding.generator(0, "encode", index, device=device))

    return encode


def _timed(run: Callable[[int], None], index: int, device: torch.device) -> float:
    """Return the seconds that `run` takes, including work queued on the device."""
    begun = time.perf_counter()
    run(index)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
