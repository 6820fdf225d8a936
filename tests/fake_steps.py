"""Optimizer steps of any config on a fake GPU, taken as the loop takes them."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from device_waits import GPU, Allowed, DeviceWaits, device_generator, fake_tensors, move
from torch import Tensor, nn
from torch.utils.data._utils.pin_memory import pin_memory

from imagetok import seeding
from imagetok.codes.reader import CodeBatch
from imagetok.config import validate
from imagetok.data import ImageBatch
from imagetok.data.noise import NoiseImages
from imagetok.images import ImageContract
from imagetok.signals import StopRequest
from imagetok.tokenizers import Tokenizer, build_autoencoder
from imagetok.training.config import TokenizerRun
from imagetok.training.job import Job
from imagetok.training.learner import Learner
from imagetok.training.schedules import values_at
from imagetok.training.tokenizer import _job_without_images
from prior.config import PriorRun
from prior.training import CodeForm, job_on

CPU = torch.device("cpu")
ALLOWED = [
    Allowed(
        "_to_copy",
        "quantizers/functional.py:k_means",
        "once in a run, before its second step: on a CPU the centres are equal on all processes",
    )
]
IMAGES = 2


class Trained(NamedTuple):
    """A job whose model is on the meta device, and batches for it."""

    job: Job
    batch: Callable[[torch.device], Any]
    run: TokenizerRun | PriorRun


def run_of(tree: dict[str, Any]) -> TokenizerRun | PriorRun:
    return validate(tree, TokenizerRun if tree["kind"] == "tokenizer" else PriorRun, "test")


def of_config(run: TokenizerRun | PriorRun) -> Trained:
    return _tokenizer(run) if isinstance(run, TokenizerRun) else _prior(run)


def _tokenizer(run: TokenizerRun) -> Trained:
    image = run.tokenizer.image
    with torch.device("meta"):
        model = build_autoencoder(run.tokenizer)
        if run.trained == "decoder":
            assert isinstance(model, Tokenizer)
            model._fix_parts()  # without the hash of an ancestor, which has no values here
        job = _job_without_images(run, model, None)

    def batch(device: torch.device) -> ImageBatch:
        size = IMAGES, image.channels, image.height, image.width
        images = torch.zeros(size, dtype=torch.uint8, device=device)
        return ImageBatch(images, *torch.zeros(2, IMAGES, dtype=torch.int64, device=device))

    return Trained(job, batch, run)


def _prior(run: PriorRun) -> Trained:
    grids = ((4, 4), (8, 8)) if run.model.kind == "hierarchy" else ((8, 8),)
    classes = tuple(f"class {i}" for i in range(10))
    form = CodeForm("0" * 64, (512,) * len(grids), grids, "64 x 64 rgb", classes)
    nothing: Any = NoiseImages(ImageContract(mode="grey", height=8, width=8))
    with torch.device("meta"):
        job, _ = job_on(run, form, nothing, None)

    def batch(device: torch.device) -> CodeBatch:
        codes = (torch.zeros(IMAGES, *grid, dtype=torch.int64, device=device) for grid in grids)
        return CodeBatch(tuple(codes), *torch.zeros(2, IMAGES, dtype=torch.int64, device=device))

    return Trained(job, batch, run)


class DeviceNoise(seeding.ReseededGenerator):
    """Stands for the noise of a GPU, whose generator cannot be made without one."""

    def __init__(self) -> None:
        self._drawn = device_generator()

    def at(self, *counters: int) -> torch.Generator:
        return self._drawn


class FakeGPU(Accelerator):
    """One fake GPU without anything of Accelerate's; backward, which needs a driver, is left out.

    Gradients are tensors of the right form.
    """

    device = GPU  # pyright: ignore
    process_index, num_processes = 0, 1  # pyright: ignore
    distributed_type = DistributedType.NO  # pyright: ignore

    def __init__(self, models: list[nn.Module]):
        self._models = models

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        return args

    def unwrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return model

    def no_sync(self, model: nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        for model in self._models:
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)

    def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: int = 2) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)


def take_steps(trained: Trained, steps: int = 1, **changes: object) -> set[Allowed]:
    """Take steps on a fake GPU; return the accepted waits that occurred.

    changes: of the settings of the loop, which otherwise has micro-batches, clips gradients and
    averages weights.
    """
    job = trained.job
    settings = {"accumulation": 2, "ema_decay": 0.99, "clip_norm": 1.0, **changes}
    config = trained.run.train.model_copy(update=settings)
    used: set[Allowed] = set()
    with fake_tensors():
        models = [job.model] if job.adversary is None else [job.model, job.adversary[1]]
        for model in models:
            move(model)
        learner = Learner(job, config, FakeGPU(models), 0, DeviceNoise(), StopRequest())
        for step in range(steps):
            with DeviceWaits(allowed=ALLOWED) as waits:
                learner.take(_batches(trained), step)
            used |= waits.used
    return used


def _batches(trained: Trained) -> Iterator[Any]:
    while True:
        yield pin_memory(trained.batch(CPU))  # as the loader does


def take_backward(trained: Trained) -> None:
    """Compute gradients of fake tensors on the CPU, where an operation that would wait is one."""
    job = trained.job
    model = job.model.train()
    with fake_tensors():
        move(model, CPU)
        values = values_at(job.schedules, 1)
        output = job.loss(model, trained.batch(CPU), values, device_generator())
        with DeviceWaits(CPU):
            output.loss.backward()
