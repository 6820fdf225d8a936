"""The output of a loss function, and its reduction over micro-batches and processes."""

from typing import NamedTuple

import torch
from torch import Tensor

from imagetok.processes import all_gather, all_reduce, process_state


class Judged(NamedTuple):
    """What an adversary judges of a micro-batch."""

    images: Tensor
    """(B, C, H, W), pixels in [0, 1]."""
    x_hat: Tensor
    """Their reconstructions, with their graph before the backward pass."""
    loss: Tensor
    """The reconstruction loss, perceptual loss included."""


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

    judged: Judged | None = None
    """For an adversary, in one micro-batch; not in a combined output."""

    def detach(self) -> "StepOutput":
        """Return a copy without the graph of the losses and reconstructions."""
        metrics = {name: value.detach() for name, value in self.metrics.items()}
        judged = self.judged and Judged(*(value.detach() for value in self.judged))
        return self._replace(loss=self.loss.detach(), metrics=metrics, judged=judged)


def combine_outputs(outputs: list[StepOutput]) -> StepOutput:
    """Combine outputs over micro-batches and processes, as the fields of StepOutput describe."""
    first = outputs[0]
    loss, *means = _means([[o.loss, *o.metrics.values()] for o in outputs])
    metrics = dict(zip(first.metrics, means, strict=True))
    sums = {name: _total([o.sums[name] for o in outputs]) for name in first.sums}
    rows = {name: all_gather(_joined([o.rows[name] for o in outputs])) for name in first.rows}
    described = tuple(
        _total(list(parts)) for parts in zip(*(o.described for o in outputs), strict=True)
    )
    return StepOutput(loss, metrics, sums, rows, described)


def _means(scalars: list[list[Tensor]]) -> tuple[Tensor, ...]:
    """Return the mean of each column of scalars over all rows of all processes, in float32."""
    columns = [value for column in zip(*scalars, strict=True) for value in column]
    sums = torch.stack(columns).view(-1, len(scalars)).float().sum(dim=1)
    count = len(scalars) * process_state().num_processes
    return (all_reduce(sums, "sum") / count).unbind()


def _total(parts: list[Tensor]) -> Tensor:
    return all_reduce(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0), "sum")


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
