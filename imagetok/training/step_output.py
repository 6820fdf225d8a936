"""The output of a loss function, and its reduction over micro-batches and processes."""

from typing import NamedTuple

import torch
from torch import Tensor

from imagetok.processes import all_gather, all_reduce, process_state


class StepOutput(NamedTuple):
    """Return value of a job's loss function for one micro-batch."""

    loss: Tensor
    metrics: dict[str, Tensor]
    """Scalars to log, averaged over micro-batches and processes."""
    sums: dict[str, Tensor]
    """Additive tensors, summed over micro-batches and processes: counts, codebook statistics."""
    rows: dict[str, Tensor]
    """Tensors (N, ...) concatenated over micro-batches and processes; N is equal on all of them."""
    described: tuple[Tensor, ...] = ()
    """Additive tensors, summed like `sums`, that only the job's `describe` reads."""

    def detach(self) -> "StepOutput":
        """Return a copy with detached loss and metrics, so that their graph can be freed."""
        metrics = {name: value.detach() for name, value in self.metrics.items()}
        return self._replace(loss=self.loss.detach(), metrics=metrics)


def combine_outputs(outputs: list[StepOutput]) -> StepOutput:
    """Combine outputs over micro-batches and processes, as the fields of StepOutput describe."""
    first, count = outputs[0], len(outputs) * process_state().num_processes
    scalars = {"loss": [o.loss for o in outputs]}
    scalars |= {name: [o.metrics[name] for o in outputs] for name in first.metrics}
    means = {
        name: all_reduce(torch.stack(values).float().sum(), "sum") / count
        for name, values in scalars.items()
    }
    sums = {name: _total([o.sums[name] for o in outputs]) for name in first.sums}
    rows = {name: all_gather(torch.cat([o.rows[name] for o in outputs])) for name in first.rows}
    described = tuple(
        _total(list(parts)) for parts in zip(*(o.described for o in outputs), strict=True)
    )
    return StepOutput(means.pop("loss"), means, sums, rows, described)


def _total(parts: list[Tensor]) -> Tensor:
    return all_reduce(torch.stack(parts).sum(0), "sum")
