"""Averaging the running statistics of batch normalisation over data-parallel processes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def average_batch_norm_statistics(model: nn.Module, mean: Callable[[Tensor], Tensor]) -> None:
    """Set the running means and variances of every process to their mean over all processes.

    Each process normalises its own part of a batch with the statistics of that part. Averaging
    after each optimizer step keeps the running statistics equal, so that all processes evaluate,
    save and resume the same model. mean: averages a tensor over processes; called once, and only
    if the model has batch norms.
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
