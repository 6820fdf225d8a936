"""The output of a loss function, and its reduction over micro-batches and processes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from imagetok.processes import gather_together, process_state, sum_together


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
    """Additive tensors that only the job's `describe` reads, summed like `sums` where it does."""

    judged: Judged | None = None
    """For an adversary, in one micro-batch; not in a combined output."""

    def detach(self) -> "StepOutput":
        """Return a copy without the graph of the losses and reconstructions."""
        metrics = {name: value.detach() for name, value in self.metrics.items()}
        judged = self.judged and Judged(*(value.detach() for value in self.judged))
        return self._replace(loss=self.loss.detach(), metrics=metrics, judged=judged)


def combine_outputs(outputs: list[StepOutput], more: Sequence[Tensor] = ()) -> StepOutput:
    """Combine the outputs of a step over micro-batches and processes (a collective).

    All that is summed over processes travels in one buffer for each dtype, all rows in another.
    more: tensors that are replaced in place by their sums over processes, in the same buffer.
    `described` is combined over micro-batches only; see `summed_description`.
    """
    first = outputs[0]
    scalars = _sums_of_scalars([[o.loss, *o.metrics.values()] for o in outputs])
    sums = {name: _total([o.sums[name] for o in outputs]) for name in first.sums}
    rows = {name: _joined([o.rows[name] for o in outputs]) for name in first.rows}
    scalars, *totals = sum_together([scalars, *sums.values(), *more])
    for own, total in zip(more, totals[len(sums) :], strict=True):
        own.copy_(total)
    loss, *metrics = (scalars / (len(outputs) * process_state().num_processes)).unbind()
    return StepOutput(
        loss,
        dict(zip(first.metrics, metrics, strict=True)),
        dict(zip(sums, totals[: len(sums)], strict=True)),
        dict(zip(rows, gather_together([*rows.values()]), strict=True)),
        tuple(_total(list(parts)) for parts in zip(*(o.described for o in outputs), strict=True)),
    )


def summed_description(output: StepOutput) -> tuple[Tensor, ...]:
    """Return the sums over processes of a combined output's `described` (a collective)."""
    return tuple(sum_together(output.described))


def _sums_of_scalars(scalars: list[list[Tensor]]) -> Tensor:
    """Return the sum of each column of scalars, in float32."""
    columns = [value for column in zip(*scalars, strict=True) for value in column]
    return torch.stack(columns).view(-1, len(scalars)).float().sum(dim=1)


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
