"""Incremental evaluation of causal convolutions, for sampling from PixelSNAIL and PixelCNN.

A causal convolution at a position reads the rows above it and, in its own row, columns to the
left. The rows above are known when a row begins, so one matrix product computes their contribution
for all columns (`above`). The inputs in the own row are contiguous in memory (`windows`), so they
need one small matrix product per position. Nothing is computed twice: sampling an image needs as
many operations as one forward pass.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn


class Kernel(NamedTuple):
    """The weights of a causal convolution, as matrices."""

    above: Float[Tensor, "D N"]
    """Weights of whole rows: top row first, each from left to right, channels innermost."""
    here: Float[Tensor, "M D"]
    """Weights of the current row, up to the last visible column."""
    bias: Float[Tensor, " D"]


def as_kernel(
    weight: Float[Tensor, "D C h w"], bias: Float[Tensor, " D"], rows: int, columns: int
) -> Kernel:
    """Split a convolution kernel into whole rows and the visible part of the current row.

    rows: number of kernel rows that read whole rows. columns: visible columns of the next kernel
    row, which reads the current row, if there is one.
    """
    innermost = weight.permute(0, 2, 3, 1).contiguous()
    here = innermost[:, rows:, :columns].flatten(1).contiguous()
    return Kernel(innermost[:, :rows].flatten(1), here.t(), bias)


def kernel_of(layer: nn.Module, rows: int = 0, columns: int = 1) -> Kernel:
    """Return `as_kernel` of a layer with a bias; the defaults are for a 1 x 1 convolution."""
    assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
    weight = layer.weight[:, :, None, None] if isinstance(layer, nn.Linear) else layer.weight
    return as_kernel(weight, layer.bias, rows, columns)


def context_rows(
    context: Float[Tensor, "B C H W"] | None,
) -> tuple[Float[Tensor, "W B C"], ...]:
    """Split a context map into rows (W, B, C); () without a context."""
    return () if context is None else context.permute(2, 3, 0, 1).contiguous().unbind(0)


class RowBuffer:
    """A buffer of the last rows of a feature map, for convolutions of one width; initially zeros.

    like: a tensor with the dtype and device. size: batch size and grid width. depth: number of rows
    kept, the current one last. kernel_width: width of the kernels, odd. taps: columns of the
    current row in a window; kernel_width // 2 ends before the own position, one more includes it.
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
        # Created once: creating a view takes as much time as a small operation.
        self.slots = [self.current[:, column] for column in range(width)]
        row = self.kept[:, -1].flatten(1)
        self.windows = [
            row[:, column * channels : (column + taps) * channels] for column in range(width)
        ]

    def advance(self) -> None:
        """Begin the next row; the content of the current row remains until it is overwritten."""
        for row in range(self.kept.shape[1] - 1):
            self.kept[:, row] = self.kept[:, row + 1]
        self.finished += 1

    def above(
        self, kernel: Kernel, constant: Float[Tensor, "*W B D"], *, with_current: bool = False
    ) -> Float[Tensor, "W B D"]:
        """Return, for every column, the constant plus the convolution over the whole rows.

        constant: (B, D), or (W, B, D) with a value per column. with_current: the whole rows end
        with the current row instead of the one above it.
        """
        columns = constant if constant.ndim == 3 else constant[None]
        total = columns.repeat(self.current.shape[1] // len(columns), 1, 1)
        taps = self.kernel_width * self.kept.shape[3]  # per row
        count = min(self.finished + with_current, kernel.above.shape[1] // taps)
        if count:  # rows above the grid are zeros
            end = self.kept.shape[1] - (not with_current)
            rows = self.kept[:, end - count : end].unfold(2, self.kernel_width, 1)
            patches = rows.permute(2, 0, 1, 4, 3).reshape(-1, count * taps)  # (W*B, taps)
            total.flatten(0, 1).addmm_(patches, kernel.above[:, -count * taps :].t())
        return total
