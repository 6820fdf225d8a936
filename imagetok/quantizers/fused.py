"""Fused operations on (N, K) matrices (positions x codes), computed in chunks of rows.

On a CPU, newly allocated large temporaries take about ten times as long as work in the cache.
Therefore the forward and backward passes of the stochastic quantizers are written out here, so
that each reads its matrices only once.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

_IN_CACHE = 1 << 19  # values, 2 MiB in float32
_ON_GPU = 1 << 24  # values; a GPU prefers few and large kernels
_BLOCKS = 16


def rows_per_chunk(num_codes: int, device: torch.device) -> int:
    """Return the number of rows of K values per chunk."""
    return max(1, (_IN_CACHE if device.type == "cpu" else _ON_GPU) // num_codes)


def chunks(matrix: Float[Tensor, "N K"], *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield chunks of the same rows of all tensors, and an uninitialised scratch matrix."""
    count = min(rows_per_chunk(matrix.shape[1], matrix.device), len(matrix))
    scratch = matrix.new_empty(count, matrix.shape[1])
    split = (tensor.split(count) for tensor in (matrix, *others))
    for parts in zip(*split, strict=True):
        yield *parts, scratch[: len(parts[0])]


def first_argmax(matrix: Float[Tensor, "N K"]) -> Int[Tensor, " N"]:
    """Return the column of the largest value of every row; ties go to the first column.

    torch's argmax takes several times as long as amax. Therefore amax finds the largest value of
    each block of columns, and argmax is only applied to the blocks and within one block.
    """
    size, num_codes = matrix.shape
    blocks = math.gcd(num_codes, _BLOCKS)
    width = num_codes // blocks
    block = matrix.reshape(size, blocks, width).amax(dim=2).argmax(dim=1)
    which = torch.arange(size, device=matrix.device) * blocks + block
    inside = matrix.reshape(size * blocks, width).index_select(0, which).argmax(dim=1)
    return block * width + inside


class FusedGumbelSoftmax(torch.autograd.Function):
    """Gumbel-softmax sample y of every row (Jang et al. 2017, eq. 2), and the mixture y @ codebook.

    (logits (N, K), uniforms (N, K), codebook (K, D), temperature) -> (mixed (N, D), largest (N,)).
    The noise is computed from the uniforms, clamped to [eps, 1 - eps], which are overwritten.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, uniforms: Tensor, codebook: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor]:
        mixed = logits.new_empty(len(logits), codebook.shape[1])
        largest = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        eps = torch.finfo(uniforms.dtype).eps
        for logit, y, z, k, noisy in chunks(logits, uniforms, mixed, largest):
            minus_gumbel = y.clamp_(eps, 1 - eps).log_().neg_().log_()
            torch.sub(logit, minus_gumbel, out=noisy).div_(temperature)
            k.copy_(first_argmax(noisy))
            torch.softmax(noisy, dim=1, out=y)
            torch.mm(y, codebook, out=z)
        ctx.mark_non_differentiable(largest)
        ctx.save_for_backward(uniforms, codebook, mixed, temperature)
        return mixed, largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, codebook, mixed, temperature = ctx.saved_tensors
        to_logits, to_codebook = torch.empty_like(weights), torch.zeros_like(codebook)
        # dL/dy_k = g . e_k, whose mean under y is g . z
        centre = (grad * mixed).sum(dim=1, keepdim=True)
        for y, g, c, out, _scratch in chunks(weights, grad, centre, to_logits):
            torch.mm(g, codebook.T, out=out).sub_(c).mul_(y).div_(temperature)
            to_codebook.addmm_(y.T, g)
        return to_logits, None, to_codebook, None


class FusedNegativeEntropy(torch.autograd.Function):
    """Negative entropy sum_k p ln p in nats with p = softmax(logits), for every row of (N, K)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        values, log_sums = logits.new_empty(2, len(logits), 1)
        for logit, value, log_sum, shifted in chunks(logits, values, log_sums):
            top = logit.amax(dim=1, keepdim=True)
            torch.sub(logit, top, out=shifted)
            p = shifted.exp()
            total = p.sum(dim=1, keepdim=True)
            torch.log(total, out=log_sum)
            torch.sum(p.mul_(shifted), dim=1, keepdim=True, out=value).div_(total).sub_(log_sum)
            log_sum.add_(top)
        ctx.save_for_backward(logits, values, log_sums)
        return values.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, values, log_sums = ctx.saved_tensors
        to_logits = torch.empty_like(logits)
        for logit, value, log_sum, g, out, log_p in chunks(
            logits, values, log_sums, grad[:, None], to_logits
        ):
            torch.sub(logit, log_sum, out=log_p)
            torch.exp(log_p, out=out)
            out.mul_(log_p.sub_(value)).mul_(g)
        return to_logits
