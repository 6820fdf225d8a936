"""Causal convolutions one position after another: what both PixelSNAIL and PixelCNN sample with.

A convolution at a position reads rows above and, in its own row, columns on the left. What it
reads above is known when its row begins: one matrix product then serves all columns (`above`). What
it reads in its own row lies side by side in memory (`windows`): one product with few rows, too.
Nothing is computed twice, so an image costs as much arithmetic as one forward pass.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Kernel(NamedTuple):
    """A convolution as matrices."""

    above: Float[Tensor, "D N"]
    """Taps of whole rows, oldest row first, each left to right, channels innermost."""
    here: Float[Tensor, "M D"]
    """Taps of the current row up to the last column that may be seen."""
    bias: Float[Tensor, " D"]


def as_kernel(
    weight: Float[Tensor, "D C h w"], bias: Float[Tensor, " D"], rows: int, columns: int
) -> Kernel:
    """Split a kernel: its first `rows` read whole rows, and the row after them, if there is one,
    its first `columns` of the current row.
    """
    innermost = weight.permute(0, 2, 3, 1).contiguous()
    here = innermost[:, rows:, :columns].flatten(1).contiguous()
    return Kernel(innermost[:, :rows].flatten(1), here.t(), bias)


def kernel_of(layer: nn.Module, rows: int = 0, columns: int = 1) -> Kernel:
    """`as_kernel` of a layer with a bias; without rows and columns given, of one that is 1 x 1."""
    assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    weight = layer.weight[:, :, None, None] if isinstance(layer, nn.Linear) else layer.weight
    return as_kernel(weight, layer.bias, rows, columns)


def context_rows(
    context: Float[Tensor, "B C H W"] | None,
) -> tuple[Float[Tensor, "W B C"], ...]:
    """The context of each row of the grid; of none, nothing."""
    return () if context is None else context.permute(2, 3, 0, 1).contiguous().unbind(0)


class RowBuffer:
    """The last rows of a feature map, for convolutions of one width; at the start all zeros.

    like: gives dtype and device. size: batch and grid width. depth: rows kept, the current one
    last. kernel_width: odd. taps: columns of the current row that a window holds: kernel_width // 2
    ends before the own position, one more includes it.
    """

    def __init__(
        self,
        like: Tensor,
        size: tuple[int, int],
        channels: int,
        *,
        depth: int,
        kernel_width: int,
        taps: int,
    ):
        (batch, width), reach = size, kernel_width // 2
        self.kernel_width = kernel_width
        self.kept = like.new_zeros(batch, depth, width + 2 * reach, channels)
        self.current = self.kept[:, -1, reach : reach + width]  # (B, W, C)
        self.finished = 0
        # Made once: a view costs as much time as a small operation.
        self.slots = [self.current[:, column] for column in range(width)]
        row = self.kept[:, -1].flatten(1)
        self.windows = [
            row[:, column * channels : (column + taps) * channels] for column in range(width)
        ]

    def advance(self) -> None:
        """Begin the next row. What is in the current one stays until it is overwritten."""
        for row in range(self.kept.shape[1] - 1):
            self.kept[:, row] = self.kept[:, row + 1]
        self.finished += 1

    def above(
        self, kernel: Kernel, constant: Float[Tensor, "*W B D"], *, with_current: bool = False
    ) -> Float[Tensor, "W B D"]:
        """The constant, one or each column's, and what the convolution's whole rows give there.

        with_current: they end with the current row instead of the one before it.
        """
        columns = constant if constant.ndim == 3 else constant[None]
        total = columns.repeat(self.current.shape[1] // len(columns), 1, 1)
        taps = self.kernel_width * self.kept.shape[3]  # of one row
        count = min(self.finished + with_current, kernel.above.shape[1] // taps)
        if count:  # the rows over the grid are zeros
            end = self.kept.shape[1] - (not with_current)
            rows = self.kept[:, end - count : end].unfold(2, self.kernel_width, 1)
            patches = rows.permute(2, 0, 1, 4, 3).reshape(-1, count * taps)  # (W*B, taps)
            total.flatten(0, 1).addmm_(patches, kernel.above[:, -count * taps :].t())
        return total
