"""What a loss function gives for a micro-batch, and for all of an optimizer step's together."""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor


class StepOutput(NamedTuple):
    """What a job's loss function returns for one micro-batch."""

    loss: Tensor
    metrics: dict[str, Tensor]
    """Scalars to log, averaged over micro-batches and processes."""
    sums: dict[str, Tensor]
    """Additive tensors, summed over micro-batches and processes: counts, codebook statistics."""
    rows: dict[str, Tensor]
    """Tensors (N, ...) concatenated over processes, then micro-batches; N is alike everywhere."""

    def detach(self) -> "StepOutput":
        """Without the graph of loss and metrics, which a later micro-batch need not keep."""
        metrics = {name: value.detach() for name, value in self.metrics.items()}
        return StepOutput(self.loss.detach(), metrics, self.sums, self.rows)


def combine(outputs: list[StepOutput], accelerator: Accelerator) -> StepOutput:
    """Means of losses and metrics, sums of sums, all rows, of micro-batches and processes."""
    first, count = outputs[0], len(outputs) * accelerator.num_processes
    scalars = {"loss": [o.loss for o in outputs]}
    scalars |= {name: [o.metrics[name] for o in outputs] for name in first.metrics}
    means = {
        name: sum_over_processes(torch.stack(values).float().sum(), accelerator) / count
        for name, values in scalars.items()
    }
    sums = {
        name: sum_over_processes(torch.stack([o.sums[name] for o in outputs]).sum(0), accelerator)
        for name in first.sums
    }
    rows = {
        name: _gather(torch.cat([o.rows[name] for o in outputs]), accelerator)
        for name in first.rows
    }
    return StepOutput(means.pop("loss"), means, sums, rows)


def sum_over_processes(value: Tensor, accelerator: Accelerator) -> Tensor:
    """The same on every process."""
    if accelerator.num_processes == 1:
        return value
    total = accelerator.reduce(value, "sum")
    assert isinstance(total, Tensor)
    return total


def _gather(value: Tensor, accelerator: Accelerator) -> Tensor:
    if accelerator.num_processes == 1:
        return value
    every = accelerator.gather(value.contiguous())
    assert isinstance(every, Tensor)
    return every
