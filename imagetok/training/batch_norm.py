"""The running statistics of batch normalisation."""

from torch import Tensor, nn


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running means and variances of a model's batch norms, as they are stored."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
