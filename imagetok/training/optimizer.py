"""Building and calling the optimizer, and resetting its state for replaced codebook rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imagetok.training.config import OptimizerConfig

_FACTOR = "learning_rate_factor"
"""Option of a group of parameters; absent where it is 1."""


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    matrix_layers: tuple[type[nn.Module], ...] = (),
    factor_of: Callable[[str], float] | None = None,
) -> torch.optim.Optimizer:
    """Return a fused AdamW optimizer; the loop sets its learning rate at every step.

    Weight decay applies to the weights of linear and convolution layers only: those of torch, and
    `matrix_layers`, the corresponding classes of other libraries. factor_of: returns the factor of
    a parameter's learning rate, by name, which `set_learning_rate` applies; None: 1 for all.
    """
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, *matrix_layers)
    decayed = {
        id(module._parameters.get("weight"))  # a weight under normalisation is not a parameter
        for module in model.modules()
        if isinstance(module, layers)
    }
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = []
    factors = {name: 1.0 if factor_of is None else factor_of(name) for name, _ in named}
    for factor in dict.fromkeys(factors.values()):
        own = [p for name, p in named if factors[name] == factor]
        options = {} if factor == 1 else {_FACTOR: factor}
        groups += [
            {"params": [p for p in own if id(p) in decayed], **options},
            {"params": [p for p in own if id(p) not in decayed], "weight_decay": 0.0, **options},
        ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step, times the factor of each group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1)


def to_step(prepared: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer to call at each step, from the one that Accelerate prepared.

    Accelerate's wrapper scales gradients of fp16, reduces them on TPUs, and has subclasses for
    DeepSpeed and Megatron. Otherwise it only calls torch's optimizer, after searching the disk for
    an optional package, so torch's own is returned.
    """
    if type(prepared) is not AcceleratedOptimizer:
        return prepared
    calls_only = (
        prepared.scaler is None
        and prepared.accelerator_state.distributed_type != DistributedType.XLA
    )
    return prepared.optimizer if calls_only else prepared


@contextmanager
def capturable(
    optimizer: torch.optim.Optimizer, learning_rates: Sequence[Tensor]
) -> Iterator[None]:
    """Let `optimizer.step` be recorded in a CUDA graph inside the context.

    learning_rates: a scalar on the device for each group of parameters, which the graph reads. The
    options that checkpoints store are the same after the context as before it.
    """
    before = [(group["lr"], group["capturable"]) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, learning_rates, strict=True):
        group.update(lr=rate, capturable=True)
    try:
        yield
    finally:
        for group, (rate, is_capturable) in zip(optimizer.param_groups, before, strict=True):
            group.update(lr=rate, capturable=is_capturable)


@torch.no_grad()
def reset_optimizer_rows(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    average: AveragedModel | None,
    replaced: dict[str, Tensor],
) -> None:
    """Reset the optimizer state of replaced rows of parameters, such as reset codebook vectors.

    Their moments become zero, and their moving average becomes the row itself. replaced: masks of
    rows, by the parameter's name in the unwrapped model.
    """
    for name, rows in replaced.items():
        parameter = model.get_parameter(name)
        rows = rows.view(-1, *[1] * (parameter.ndim - 1))
        for value in optimizer.state[parameter].values():
            if value.shape == parameter.shape:
                value.masked_fill_(rows, 0)
        if isinstance(average, AveragedModel):
            averaged = average.module.get_parameter(name)
            averaged.copy_(torch.where(rows, parameter, averaged))
