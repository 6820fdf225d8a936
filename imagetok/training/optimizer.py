"""The optimizer, and what it must forget."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imagetok.training.config import OptimizerConfig


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    matrix_layers: tuple[type[nn.Module], ...] = (),
) -> torch.optim.Optimizer:
    """Fused AdamW; the loop sets the learning rate at every step.

    Weight decay touches the weights of linear and convolution layers: torch's, and those of
    `matrix_layers`, which another library has.
    """
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, *matrix_layers)
    decayed = {
        id(module._parameters.get("weight"))  # a normalised weight is no parameter
        for module in model.modules()
        if isinstance(module, layers)
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed]},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


@torch.no_grad()
def reset_optimizer_rows(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    average: AveragedModel | None,
    replaced: dict[str, Tensor],
) -> None:
    """Let replaced rows of parameters start anew: without moments, and their average is themselves.

    replaced: masks of rows by the name of the parameter of the (bare) model.
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
