"""Probabilities of all codes at every position, of which no (N, K) matrix is kept.

p(k|n) is the softmax over codes of `vectors @ codes.T / temperature`. Rows are computed in chunks,
and again in the backward pass: memory is that of a few chunks for any number of positions and
codes, at the cost of one more matrix product.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from imagetok.precision import full_float32
from imagetok.quantizers.fused import rows_per_chunk

EntropyTemperature = Annotated[float, Field(ge=1e-4, le=1e4)]
"""Temperature of the code probabilities in an entropy penalty."""
_PENALTY = "sample_entropy", "diversity"


def penalty_names(temperature: float | None) -> tuple[str, ...]:
    """Return the names of `entropy_penalty`'s losses."""
    return () if temperature is None else _PENALTY


def entropy_penalty(
    vectors: Float[Tensor, "N D"], codes: Float[Tensor, "K D"], temperature: float | None
) -> dict[str, Float[Tensor, ""]]:
    """Return the losses of `code_entropies` by name; none without a temperature."""
    if temperature is None:
        return {}
    return dict(zip(_PENALTY, code_entropies(vectors, codes, temperature), strict=True))


def code_entropies(
    vectors: Float[Tensor, "N D"], codes: Float[Tensor, "K D"], temperature: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean entropy of p(k|n) over positions, and minus the entropy of its mean, in nats.

    temperature: > 0. The first is in [0, ln K], 0 if every position has one code; the second in
    [-ln K, 0], -ln K if all codes have the same mean probability. Their sum, the entropy penalty of
    MAGVIT-v2 (Yu et al. 2023, eq. 4), is minus the mutual information of position and code.
    """
    values: Any = _CodeEntropies.apply(vectors, codes, temperature)
    return values


def distance_factors(
    vectors: Float[Tensor, "N D"], codes: Float[Tensor, "K D"]
) -> tuple[Float[Tensor, "N D1"], Float[Tensor, "K D1"]]:
    """Return matrices whose product is half of -||z - e||^2, up to a constant of each position."""
    ones = vectors.new_ones(len(vectors), 1)
    half_squares = codes.square().sum(dim=1, keepdim=True) / 2
    return torch.cat([vectors, ones], dim=1), torch.cat([codes, -half_squares], dim=1)


def index_gradient(
    vectors: Float[Tensor, "N D"], codes: Float[Tensor, "K D"]
) -> Float[Tensor, "N D"]:
    """Return zeros with the gradient of p @ sg[codes], at temperature 1.

    Added to the chosen code vectors, they make the straight-through estimator of their one-hot
    index (Shi et al. 2024, IBQ): every code and every vector has a gradient.
    """
    zeros: Any = _IndexGradient.apply(vectors, codes)
    return zeros


class _CodeEntropies(torch.autograd.Function):
    """See `code_entropies`."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, codes: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        entropy, mean = vectors.new_zeros(()), vectors.new_zeros(len(codes))
        for log_p, _ in _log_probabilities(vectors, codes, temperature):
            p = log_p.exp()
            mean += p.sum(dim=0)
            entropy -= p.mul_(log_p).sum()
        mean /= len(vectors)
        # Avoids an infinite gradient where a code has probability 0.
        log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
        ctx.save_for_backward(vectors, codes, log_mean)
        ctx.temperature = temperature
        return entropy / len(vectors), (mean * log_mean).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_entropy: Tensor, to_diversity: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        vectors, codes, log_mean = ctx.saved_tensors
        # The derivative by p, but for a constant, which has no effect on a softmax.
        of_mean = to_diversity / len(vectors) * log_mean
        weight = to_entropy / len(vectors)

        def slopes(log_p: Tensor, rows: slice) -> Tensor:
            del rows
            return of_mean - weight * log_p

        return *_gradients(vectors, codes, ctx.temperature, slopes), None


class _IndexGradient(torch.autograd.Function):
    """See `index_gradient`."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, codes)
        return torch.zeros_like(vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        vectors, codes = ctx.saved_tensors
        return _gradients(vectors, codes, 1.0, lambda log_p, rows: grad[rows] @ codes.T)


def _log_probabilities(
    vectors: Tensor, codes: Tensor, temperature: float
) -> Iterator[tuple[Tensor, slice]]:
    """Yield chunks of ln p and their rows."""
    count = rows_per_chunk(len(codes), vectors.device)
    for start in range(0, len(vectors), count):
        rows = slice(start, start + count)
        yield (vectors[rows] @ codes.T).div_(temperature).log_softmax(dim=1), rows


def _gradients(
    vectors: Tensor, codes: Tensor, temperature: float, slopes: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of vectors and codes, from that of p.

    slopes: maps a chunk of ln p and its rows to the derivative by p, up to a constant of each row.
    """
    to_vectors, to_codes = torch.empty_like(vectors), torch.zeros_like(codes)
    with full_float32():  # as in the forward pass, whose probabilities are computed again
        for log_p, rows in _log_probabilities(vectors, codes, temperature):
            slope, p = slopes(log_p, rows), log_p.exp()
            slope -= (p * slope).sum(dim=1, keepdim=True)
            to_logits = p.mul_(slope).div_(temperature)
            to_vectors[rows] = to_logits @ codes
            to_codes.addmm_(to_logits.T, vectors[rows])
    return to_vectors, to_codes
