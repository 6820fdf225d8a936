"""PixelSNAIL's steps with the position on the device, for CUDA graphs: a graph for each column."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn.functional import embedding

from prior.captured_sampling import StaticStepper
from prior.incremental_convolution import RowBuffer
from prior.pixelsnail_stepper import AttentionStep, PixelSNAILStepper, Weights


class StaticAttentionStep(AttentionStep):
    """Attention over the whole length, in which later positions are masked."""

    def _attend(self, query: Tensor, position: Int64[Tensor, "1"]) -> Tensor:
        self.past.index_copy_(4, position, self.by_head.unsqueeze(4))
        later = torch.arange(self.past.shape[4], device=position.device) > position
        scores = torch.bmm(query, self.keys).masked_fill(later, -torch.inf)
        return torch.bmm(scores.softmax(dim=2), self.values.mT)


class _Rows(PixelSNAILStepper):
    """The memory of a `PixelSNAILStepper`, in which no row is treated as the first one.

    Above the grid its buffers hold zeros, as the ordinary one takes for granted.
    """

    def __init__(self, weights: Weights, labels: Int[Tensor, " B"]):
        super().__init__(weights, labels)
        self.position = 1
        units = [unit for block in self.blocks for unit in block.units]
        buffers = [self.codes, *(b for unit in units for b in (unit.input, unit.inner))]
        for buffer in buffers:
            _fill(buffer)

    @property
    def attention(self) -> type[AttentionStep]:
        return StaticAttentionStep


def _fill(buffer: RowBuffer) -> None:
    buffer.finished = buffer.kept.shape[1]


class StaticPixelSNAILStepper(StaticStepper):
    """Static stepper of a PixelSNAIL. What a step runs depends on its column alone.

    The first step of a row leaves sums over the rows above for the other columns, in tensors of its
    own graph.
    """

    def __init__(self, weights: Weights, labels: Int[Tensor, " B"]):
        self.rows = _Rows(weights, labels)

    def pattern(self, step: int) -> int:
        return step % self.rows.width

    def next_logits(
        self, previous: Int64[Tensor, " B"], position: Int64[Tensor, "1"], step: int
    ) -> Float[Tensor, "B K"]:
        rows, weights, column = self.rows, self.rows.weights, self.pattern(step)
        # Nothing precedes the first position.
        before = embedding(previous, weights.codes) * (position > 0)
        rows.codes.slots[column - 1].copy_(before)
        if column == 0:
            rows.begin_row()
        background = weights.background.index_select(0, position)
        return rows.logits(position, column, background)
