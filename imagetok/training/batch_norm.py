"""Running statistics of batch norms, over the processes of a distributed run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def average_batch_norm_statistics(model: nn.Module, mean: Callable[[Tensor], Tensor]) -> None:
    """Give every process the mean of all processes' running means and variances.

    Each process normalises, and counts, the images of its own part of a batch. Averaged after each
    optimizer step, the statistics are alike everywhere: what is evaluated, saved and resumed is one
    model. mean: of a tensor over processes; called once, and not for a model without such norms.
    """
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if buffers:
        together = mean(torch.cat(buffers))
        for buffer, part in zip(
            buffers, together.split([len(buffer) for buffer in buffers]), strict=True
        ):
            buffer.copy_(part)
