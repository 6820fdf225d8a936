"""No step of training waits for a GPU: for every config, on fake tensors of one."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import pytest
import torch
from device_waits import (
    GPU,
    Allowed,
    DeviceWaits,
    device_generator,
    fake_tensors,
    host_generator,
    move,
)
from representative import slow_but
from torch import Tensor, nn

from imagetok import configs
from imagetok.codes.reader import CodeBatch
from imagetok.config import validate
from imagetok.data import ImageBatch
from imagetok.tokenizers import build_autoencoder
from imagetok.tokenizers.base import Autoencoder
from imagetok.training.checkpoint import build_average
from imagetok.training.config import TokenizerRun
from imagetok.training.divergence import Divergence
from imagetok.training.optimizer import build_optimizer, reset_optimizer_rows
from imagetok.training.step_output import StepOutput, combine_outputs
from imagetok.training.tokenizer import loss_function
from prior.build import build_prior
from prior.config import PriorConfig, PriorRun
from prior.training import loss_function as prior_loss_function

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
    """What a step needs."""

    model: nn.Module
    loss: Callable[[nn.Module, Any, int, torch.Generator], StepOutput]
    batch: Callable[[torch.device], Any]
    update: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]]
    run: TokenizerRun | PriorRun


def run_of(tree: dict[str, Any]) -> TokenizerRun | PriorRun:
    return validate(tree, TokenizerRun if tree["kind"] == "tokenizer" else PriorRun, "test")


def of_config(run: TokenizerRun | PriorRun) -> Trained:
    return _tokenizer(run) if isinstance(run, TokenizerRun) else _prior(run)


def _tokenizer(run: TokenizerRun) -> Trained:
    with torch.device("meta"):
        model = build_autoencoder(run.tokenizer)
    image = run.tokenizer.image

    def batch(device: torch.device) -> ImageBatch:
        size = IMAGES, image.channels, image.height, image.width
        images = torch.zeros(size, dtype=torch.uint8, device=device)
        return ImageBatch(images, *torch.zeros(2, IMAGES, dtype=torch.int64, device=device))

    def update(stats: dict[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
        return cast(Autoencoder, model).update(stats, draw)

    return Trained(model, loss_function(run.objective, image, model.num_codes), batch, update, run)


def _prior(run: PriorRun) -> Trained:
    grids = ((4, 4), (8, 8)) if run.model.kind == "hierarchy" else ((8, 8),)
    classes = 10 if run.conditional else 0
    architecture = PriorConfig(
        tokenizer_fingerprint="0" * 64,
        num_codes=(512,) * len(grids),
        grids=grids,
        num_classes=classes,
        model=run.model,
    )
    with torch.device("meta"):
        model = build_prior(architecture)

    def batch(device: torch.device) -> CodeBatch:
        codes = (torch.zeros(IMAGES, *grid, dtype=torch.int64, device=device) for grid in grids)
        return CodeBatch(tuple(codes), *torch.zeros(2, IMAGES, dtype=torch.int64, device=device))

    return Trained(model, prior_loss_function(run, classes), batch, lambda *_: {}, run)


def take_steps(trained: Trained, steps: int = 2) -> set[Allowed]:
    """Take steps as the loop does, on a fake GPU; return the accepted waits that occurred.

    Gradients are not computed: backward needs a driver.
    """
    model, config = trained.model.train(), trained.run.train
    average = build_average(model, 0.99)
    assert average is not None
    used: set[Allowed] = set()
    with fake_tensors():
        move(model)
        move(average.module)
        optimizer = build_optimizer(model, config.optimizer, getattr(model, "matrix_layers", ()))
        divergence = Divergence(GPU)
        for step in range(steps):
            batches = [trained.batch(GPU) for _ in range(2)]
            with DeviceWaits(allowed=ALLOWED) as waits:
                draw = device_generator()
                outputs = [trained.loss(model, batch, step, draw).detach() for batch in batches]
                total = combine_outputs(outputs)
                divergence.watch(step, total)
                for parameter in model.parameters():
                    parameter.grad = torch.empty_like(parameter)
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                replaced = trained.update(total.sums | total.rows, host_generator())
                average.update_parameters(model)
                reset_optimizer_rows(optimizer, model, average, replaced)
            used |= waits.used
    return used


def take_backward(trained: Trained) -> None:
    """Compute gradients of fake tensors on the CPU, where an operation that would wait is one."""
    model = trained.model.train()
    with fake_tensors():
        move(model, CPU)
        output = trained.loss(model, trained.batch(CPU), 1, device_generator())
        with DeviceWaits(CPU):
            output.loss.backward()


def different_models() -> dict[str, dict[str, Any]]:
    """Of all configs those with a model, objective or kind of optimizer that no earlier one has."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for config in configs():
        tree = config.tree
        parts = [tree.get(key) for key in ("tokenizer", "model", "objective", "conditional")]
        key = json.dumps(parts[:1] * (tree["kind"] == "tokenizer") + parts[1:], sort_keys=True)
        found.setdefault(key, (config.name, tree))
    return dict(found.values())


MODELS = different_models()
MECHANISMS = [
    *("digits/vqvae", "digits/vqvae-ema", "digits/vqste", "digits/edvae", "digits/dvae"),
    *("digits/gs-vqvae", "digits/sqvae", "shapes/vmf-sqvae", "digits/vae", "shapes/vqvae2"),
    *("digits/fsq", "digits/lfq", "digits/residual-vq", "digits/simvq", "digits/rotation-vq"),
    *("digits/gpt", "digits/pixelcnn", "digits/pixelsnail", "shapes/pixelsnail-vqvae2"),
]
each_model = pytest.mark.parametrize("name", slow_but(MECHANISMS, MODELS))


@each_model
def test_a_training_step_waits_for_nothing(name):
    take_steps(of_config(run_of(MODELS[name])))


@each_model
def test_backward_waits_for_nothing(name):
    take_backward(of_config(run_of(MODELS[name])))
