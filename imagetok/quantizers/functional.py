"""The mathematics of the quantizers, as pure functions of tensors.

Codes are on dim 1 of logits (B, K, H, W). Inputs should be float32 or float64: lgamma, digamma,
distances and log-sum-exp are too inaccurate in half precision.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from imagetok.precision import full_float32
from imagetok.processes import without_waiting
from imagetok.quantizers.fused import (
    FusedGumbelSoftmax,
    FusedNegativeEntropy,
    chunks,
    first_argmax,
    rows_per_chunk,
)
from imagetok.quantizers.usage import code_counts

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_COLUMNS = 16  # float32 values in the widest vector register
_SERIES_FROM = 20.0  # from this value the Stirling series below has an error of at most 2e-9
# Least squares at 400 Chebyshev nodes of (0, 1], lowest power first; errors are at most 4e-9.
_CODE_TERM = (
    -1.41893853,
    0.333333146,
    0.0833402086,
    0.011011966,
    -0.00759597299,
    -0.00794649181,
    0.0122714382,
    -0.00757225007,
    0.00242433564,
    -0.000327846517,
)
_CODE_TERM_SLOPE = (
    -0.500000002,
    -0.333332734,
    -0.166692062,
    -0.0329116801,
    0.0297379262,
    0.0415413161,
    -0.0763697857,
    0.054934575,
    -0.0193963485,
    0.00218065437,
    0.000308142261,
)


def channels_last(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
    """Return the same values with K innermost in memory, the fastest layout for softmax over K.

    Noise drawn in this layout does not depend on the layout of the given logits.
    """
    return logits.contiguous(memory_format=torch.channels_last)


def gumbel_noise(
    like: Float[Tensor, "..."], generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """Draw standard Gumbel noise with the shape, dtype, device and memory format of `like`.

    The uniforms are clamped to [eps, 1 - eps] as in torch.distributions, so that equal uniforms
    give equal noise.
    """
    return _gumbel_in_place(torch.empty_like(like).uniform_(generator=generator))


def gumbel_from_uniform(u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return -log(-log u), with u in [0, 1] clamped to [eps, 1 - eps]."""
    return _gumbel_in_place(u.clone())


def _gumbel_in_place(u: Tensor) -> Tensor:
    eps = torch.finfo(u.dtype).eps
    return u.clamp_(eps, 1 - eps).log_().neg_().log_().neg_()


def mix_codes(
    weights: Float[Tensor, "B K H W"], codebook: Float[Tensor, "K D"]
) -> Float[Tensor, "B D H W"]:
    """Return the average of the codebook with the weights of every position."""
    with full_float32():  # also used for vMF similarities, where TF32 would choose wrong codes
        return (weights.movedim(1, -1) @ codebook).movedim(-1, 1)


def relaxed_codes(
    logits: Float[Tensor, "B K H W"],
    uniforms: Float[Tensor, "N K"],
    codebook: Float[Tensor, "K D"],
    temperature: Float[Tensor, ""],
) -> tuple[Float[Tensor, "B D H W"], Int[Tensor, "B H W"]]:
    """Return mixed code vectors and hard codes of a Gumbel-softmax sample at every position.

    logits: may be unnormalised. uniforms: in [0, 1], a row per position (N = B * H * W); they are
    overwritten. temperature: > 0. The hard code is the largest entry of the sample. With the same
    uniforms, samples equal those of torch.distributions.
    Jang et al. 2017 eq. 2; Maddison et al. 2017 eq. 10.
    """
    grid = logits[:, 0].shape
    drawn: Any = FusedGumbelSoftmax.apply(as_vectors(logits), uniforms, codebook, temperature)
    mixed, largest = drawn
    return mixed.view(*grid, -1).movedim(-1, 1), largest.view(grid)


def most_likely(logits: Float[Tensor, "B K H W"]) -> Int[Tensor, "B H W"]:
    """Return the code with the largest logit at every position; ties go to the lowest index."""
    rows = as_vectors(logits)
    return torch.cat([first_argmax(part) for part, _ in chunks(rows)]).view(logits[:, 0].shape)


def look_up(
    indices: Int[Tensor, "B H W"], codebook: Float[Tensor, "K D"]
) -> Float[Tensor, "B D H W"]:
    """Return the code vector of every index, channels on dim 1."""
    return torch.nn.functional.embedding(indices, codebook).movedim(-1, 1)


def entropy(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """Return the entropy of softmax(logits) in nats at every position, in [0, ln K]."""
    return math.log(logits.shape[1]) - categorical_kl_to_uniform(logits)


def categorical_kl_to_uniform(logits: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """Return KL(Cat(softmax(logits)) || uniform) in nats at every position, in [0, ln K]."""
    values: Any = FusedNegativeEntropy.apply(as_vectors(logits))
    return values.view(logits[:, 0].shape) + math.log(logits.shape[1])


def dirichlet_kl_to_uniform(alpha: Float[Tensor, "B K H W"]) -> Float[Tensor, "B H W"]:
    """Return KL(Dir(alpha) || Dir(1)) in nats at every position.

    alpha: (B, K, H, W) concentrations >= 1, codes on dim 1.

    EdVAE App. A states it as lnG(S) - lnG(K) - sum lnG(a) + sum (a-1)(psi(a) - psi(S)) with
    S = sum a. In float32 these terms cancel for logits above about 18, and the gradient vanishes.
    Since sum a = S, the large parts can be removed on both sides before rounding:
    KL = G(S) - lnG(K) + sum F(a), with F in `_code_term` and G in `_concentration_term`.
    """
    num_codes = alpha.shape[1]
    total = alpha.sum(dim=1)
    codes: Any = _CodeTerms.apply(as_vectors(alpha))
    rest = _concentration_term(total, num_codes) - math.lgamma(num_codes)
    return rest + codes.view_as(total)


class _CodeTerms(torch.autograd.Function):
    """sum_k F(a_k) of every row of (N, K), with F(a) = (a-1) psi(a) - lnG(a) - a."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return torch.cat([_code_term(part).sum(dim=1) for part, _ in chunks(alpha)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (alpha,) = ctx.saved_tensors
        to_alpha = torch.empty_like(alpha)
        for part, g, out, _ in chunks(alpha, grad[:, None], to_alpha):
            torch.mul(_code_term_slope(part), g, out=out)
        return to_alpha


def _code_term(alpha: Tensor) -> Tensor:
    """Return F(a) = (a-1) psi(a) - lnG(a) - a.

    With r = 1/a in (0, 1], F(a) + ln(a)/2 and F'(a)/r are smooth and bounded. In float32 each is
    computed as a polynomial in r, exact to rounding and much faster than digamma and lgamma.
    """
    r = alpha.reciprocal()
    if alpha.dtype == torch.float32:
        return _polynomial(r, _CODE_TERM).sub_(alpha.log(), alpha=0.5)
    direct = (alpha - 1).mul_(torch.digamma(alpha)).sub_(torch.lgamma(alpha)).sub_(alpha)
    series = _polynomial(r, (-0.5 - _HALF_LOG_2PI, 1 / 3, 1 / 12, 1 / 90, -1 / 120))
    return torch.where(alpha > _SERIES_FROM, series.sub_(alpha.log(), alpha=0.5), direct)


def _code_term_slope(alpha: Tensor) -> Tensor:
    """Return F'(a) = (a-1) psi'(a) - 1."""
    r = alpha.reciprocal()
    if alpha.dtype == torch.float32:
        return _polynomial(r, _CODE_TERM_SLOPE).mul_(r)
    direct = (alpha - 1).mul_(torch.polygamma(1, alpha)).sub_(1)
    series = _polynomial(r, (-1 / 2, -1 / 3, -1 / 6, -1 / 30, 1 / 30)).mul_(r)
    return torch.where(alpha > _SERIES_FROM, series, direct)


def _polynomial(r: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return sum_i coefficients[i] r^i as a new tensor."""
    *lower, second, highest = coefficients
    value = (r * highest).add_(second)
    for coefficient in reversed(lower):
        value.mul_(r).add_(coefficient)
    return value


def _concentration_term(total: Tensor, num_codes: int) -> Tensor:
    """Return G(S) = lnG(S) - (S-K) psi(S) + S."""
    k = num_codes
    large = total > _SERIES_FROM
    s = torch.where(large, float(k), total)
    direct = torch.lgamma(s) - (s - k) * torch.digamma(s) + s
    b = torch.where(large, total, _SERIES_FROM)
    r = 1 / b
    tail = r * (1 / 6 - k / 2 + r * (-k / 12 + r * (-1 / 90 + r * (k / 120))))
    return torch.where(large, (k - 0.5) * b.log() + (0.5 + _HALF_LOG_2PI) + tail, direct)


def gaussian_logits(
    z: Float[Tensor, "B D H W"],
    codebook: Float[Tensor, "K D"],
    variance: Float[Tensor, "#B #D #H #W"],
) -> Float[Tensor, "B K H W"]:
    """Return ln N(z; e_k, variance) of every code at every position, up to a constant per position.

    variance: > 0; its axes may have size 1. The result is sum_d (e_kd z_d - e_kd^2 / 2) /
    variance_d: the square is expanded, so that no (B, K, D, H, W) tensor is needed, and the term
    z_d^2, the same for all codes, is left out because rounding it would hide differences.
    """
    vectors, precision = z.movedim(1, -1), variance.reciprocal().movedim(1, -1)
    half_squares = 0.5 * codebook.square()
    if precision.shape[-1] == 1:
        half_squares = half_squares.sum(dim=1, keepdim=True)
    precision = precision.expand(*vectors.shape[:-1], -1)
    # One matrix product, so that no other tensor of the size of the logits is needed.
    left = torch.cat([precision * vectors, -precision], dim=-1)
    with full_float32():  # TF32 would choose wrong codes
        return (left @ torch.cat([codebook, half_squares], dim=1).T).movedim(-1, 1)


def nearest_codes(
    vectors: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"], chunk: int | None = None
) -> Int[Tensor, " N"]:
    """Return the index of the nearest code by Euclidean distance; ties go to the lowest index.

    chunk: vectors per chunk (None: as many as fit in the cache), so that no (N, K) matrix of
    distances is stored. TF32 is off, because it would choose wrong codes.
    """
    return _best_codes(vectors, codebook, -0.5 * codebook.square().sum(dim=1), chunk)


def most_similar_codes(
    vectors: Float[Tensor, "N D"], codebook: Float[Tensor, "K D"]
) -> Int[Tensor, " N"]:
    """Return the index of the code with the largest inner product; ties go to the lowest index."""
    return _best_codes(vectors, codebook, codebook.new_zeros(len(codebook)))


def _best_codes(
    vectors: Tensor, codebook: Tensor, offsets: Tensor, chunk: int | None = None
) -> Tensor:
    """Return the index of the largest inner product plus offset (K,) of every vector."""
    chunk = chunk or rows_per_chunk(len(codebook), vectors.device)
    # Padded to full vector registers: otherwise matrix products round the last columns differently,
    # and equal codes would not tie.
    over = -len(codebook) % _COLUMNS
    codebook = torch.nn.functional.pad(codebook, (0, 0, 0, over))
    offsets = torch.nn.functional.pad(offsets, (0, over), value=-math.inf)
    with full_float32():
        # For distances, z . e - e^2 / 2 is largest where (z - e)^2 is least.
        parts = [
            first_argmax(torch.addmm(offsets, part, codebook.T)) for part in vectors.split(chunk)
        ]
    return torch.cat(parts)


def nearest_map(
    h: Float[Tensor, "B D H W"],
    codebook: Float[Tensor, "K D"],
    chosen: Callable[[Tensor, Tensor], Tensor] = nearest_codes,
) -> Int[Tensor, "B H W"]:
    """Return the nearest code of every position, computed in float32 or float64, never autocast.

    chosen: `nearest_codes`, or `most_similar_codes`.
    """
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
        indices = chosen(as_vectors(at_least_float32(h)), codebook)
        return indices.view(h.shape[0], *h.shape[2:])


@torch.no_grad()
def nearest_certainty(
    h: Float[Tensor, "B D H W"], codebook: Float[Tensor, "K D"]
) -> dict[str, Float[Tensor, "B H W"]]:
    """Return `margin`, `encoder_norm` and `commitments` of positions; see `Quantizer.certainty`."""
    with torch.autocast(h.device.type, enabled=False), full_float32():
        vectors, shape = as_vectors(at_least_float32(h)), (h.shape[0], *h.shape[2:])
        offsets, margins, chosen = -0.5 * codebook.square().sum(dim=1), [], []
        for part in vectors.split(rows_per_chunk(len(codebook), h.device)):
            two = torch.addmm(offsets, part, codebook.T).topk(min(2, len(codebook)), dim=1)
            margins.append(2 * (two.values[:, 0] - two.values[:, -1]))
            chosen.append(two.indices[:, 0])
        margin = torch.cat(margins) if margins else vectors.new_zeros(0)
        z_q = codebook[torch.cat(chosen)] if chosen else vectors
        rows = {"margin": margin, "encoder_norm": vectors.norm(dim=1), **commitments(vectors - z_q)}
        return {name: values.view(shape) for name, values in rows.items()}


def commitments(errors: Float[Tensor, "*L N D"]) -> dict[str, Float[Tensor, " N"]]:
    """Return `commitment` and `commitment_norm` of every position; see `Quantizer.certainty`.

    errors: (N, D) or (L, N, D), z_e - z_q of every level; levels are summed.
    """
    squares = errors.square()
    rows = {"commitment": squares.mean(dim=-1), "commitment_norm": squares.norm(dim=-1)}
    levels = math.prod(errors.shape[:-2])  # stated, because there may be no positions
    return {name: values.view(levels, errors.shape[-2]).sum(dim=0) for name, values in rows.items()}


def at_least_float32(h: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Convert half precision to float32; float32 and float64 are unchanged."""
    return h if h.dtype == torch.float64 else h.float()


def straight_through(
    z_e: Float[Tensor, "B D H W"], z_q: Float[Tensor, "B D H W"]
) -> Float[Tensor, "B D H W"]:
    """Return the value of z_q with the gradient of z_e (van den Oord et al. 2017, section 3.2)."""
    return z_e + (z_q - z_e).detach()


def as_vectors(z_e: Float[Tensor, "B D H W"]) -> Float[Tensor, "N D"]:
    """Reshape a map to one row per position: N = B * H * W."""
    return z_e.movedim(1, -1).flatten(0, 2)


def code_sums(
    vectors: Float[Tensor, "N D"], indices: Int[Tensor, " N"], num_codes: int
) -> tuple[Float[Tensor, " K"], Float[Tensor, "K D"]]:
    """Return the number of vectors assigned to each code, and their sum."""
    counts = code_counts(indices, num_codes).to(vectors.dtype)
    sums = vectors.new_zeros(num_codes, vectors.shape[1])
    sums.scatter_add_(0, indices[:, None].expand_as(vectors), vectors)
    return counts, sums


def ema_increments(
    codebook: Float[Tensor, "K D"],
    cluster_size: Float[Tensor, " K"],
    counts: Float[Tensor, " K"],
    sums: Float[Tensor, "K D"],
    decay: float,
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Return (codebook, cluster sizes) after one exponential-moving-average step, by increments.

    Equal to van den Oord et al. 2017 eq. 6-8 (N = gN + (1-g)n, m = gm + (1-g)sum z, e = m/N), but
    without the quotient: an unused code keeps its value exactly, decay 0 is one k-means step, and
    no epsilon is needed.
    """
    size = decay * cluster_size + (1 - decay) * counts
    step = (1 - decay) * (sums - counts[:, None] * codebook) / size.clamp_min(1e-30)[:, None]
    return torch.where(counts[:, None] > 0, codebook + step, codebook), size


def smoothed_means(
    cluster_size: Float[Tensor, " K"], cluster_sum: Float[Tensor, "K D"], epsilon: float = 1e-5
) -> Float[Tensor, "K D"]:
    """Return the means of clusters, whose sizes are smoothed: e = m / ((N + eps) / (n + K eps) n).

    n: sum of the sizes N. As in Sonnet's code of van den Oord et al. 2017 App. A.1, whose eq. 8 is
    m / N. An average of an empty cluster decays in both, N and m, and the smoothing moves its code
    towards zero where N is no longer above epsilon.
    """
    total = cluster_size.sum()
    smoothed = (cluster_size + epsilon) / (total + len(cluster_size) * epsilon) * total
    return cluster_sum / smoothed[:, None]


def debiased_decay(decay: float, num_updates: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the decay with which an average stays debiased in its update t = `num_updates`.

    A moving average with decay g that starts at 0, divided by 1 - g^t (Kingma & Ba 2015, section
    3), is a moving average itself, with the decay g (1 - g^(t-1)) / (1 - g^t): 0 at first, later g.
    """
    if decay == 0:
        return torch.zeros_like(num_updates)
    log = math.log(decay)
    return decay * torch.expm1((num_updates - 1) * log) / torch.expm1(num_updates * log)


def codebook_gradient(
    codebook: Float[Tensor, "K D"], counts: Float[Tensor, " K"], sums: Float[Tensor, "K D"]
) -> Float[Tensor, "K D"]:
    """Return the gradient of the codebook loss, mean (sg[z] - e)^2 over vectors and channels.

    counts, sums: number and sum of the vectors assigned to each code.
    """
    total = counts.sum().clamp_min(1) * codebook.shape[1]
    return 2 * (counts[:, None] * codebook - sums) / total


def draw_vectors(
    vectors: Float[Tensor, "N D"], count: int, generator: torch.Generator
) -> Float[Tensor, "count D"]:
    """Draw `count` of the vectors in random order, without replacement.

    If there are fewer, they are repeated with noise N(0, (0.01 / sqrt(D))^2), as in Jukebox's code
    (Dhariwal et al. 2020). generator: on the CPU, for any device of the vectors.
    """
    size, dim = vectors.shape
    if size < count:
        vectors = vectors.repeat(-(-count // size), 1)
        noise = torch.randn(vectors.shape, generator=generator, dtype=vectors.dtype)
        vectors = vectors + without_waiting(noise, vectors.device) * (0.01 / math.sqrt(dim))
    order = torch.randperm(len(vectors), generator=generator)[:count]
    return vectors[without_waiting(order, vectors.device)]


def k_means(
    vectors: Float[Tensor, "N D"], num_codes: int, generator: torch.Generator, steps: int = 10
) -> Float[Tensor, "K D"]:
    """Return K centres: k-means++ seeding (Arthur & Vassilvitskii 2007), then `steps` Lloyd steps.

    A centre without vectors keeps its value. N must be at least K. generator: on the CPU. The
    computation is on the CPU too, because parallel sums on a GPU can differ in their last bits
    between processes.
    """
    device = vectors.device
    vectors = vectors.cpu()
    centres = vectors[_seeds(vectors, num_codes, generator)]
    for _ in range(steps):
        counts, sums = code_sums(vectors, nearest_codes(vectors, centres), num_codes)
        # An EMA step with decay 0 is a Lloyd step.
        centres, _ = ema_increments(centres, torch.ones_like(counts), counts, sums, 0.0)
    return centres.to(device)


def _seeds(vectors: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    """Draw indices of K vectors, by the squared distance to the nearest earlier one (k-means++)."""
    centred = vectors - vectors.mean(dim=0)  # avoids cancellation in the distances below
    norms = centred.square().sum(dim=1)
    chosen = torch.randint(len(vectors), (1,), generator=generator)
    distances = torch.full_like(norms, torch.inf)
    seeds = [chosen]
    for _ in range(num_codes - 1):
        seed = centred[chosen[0]]
        to_seed = torch.addmv(norms + seed.square().sum(), centred, seed, alpha=-2)
        # If all distances are zero (fewer distinct vectors than codes), draw uniformly.
        distances = torch.minimum(distances, to_seed).clamp_min_(1e-30)
        # Inverse CDF; torch.multinomial would need a random number per vector.
        cumulative = distances.double().cumsum(dim=0)
        at = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
        chosen = torch.searchsorted(cumulative, at, right=True).clamp_max_(len(vectors) - 1)
        seeds.append(chosen)
    return torch.cat(seeds)
