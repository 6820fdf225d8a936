"""Textbook forms of the quantizers, and vector-quantize-pytorch's, for quantizers.py.

Matrices of all vectors and codes, each step a tensor of its own. VQ-VAE-EMA is computed as in
rosinality/vq-vae-2-pytorch, SQ-VAE as in sony/sqvae, dVAE and EdVAE with torch's own functions and
distributions, the others from their papers' equations. The VQ-STE++ here leaves the
synchronised update out.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet, RelaxedOneHotCategorical, kl_divergence

Step = Callable[[Tensor], Tensor]
"""Encoder output to something whose gradient flows everywhere."""
TEMPERATURE = 0.9
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def library(name: str, **settings: object) -> Callable[[int, int], Step]:
    """A class of vector-quantize-pytorch."""

    def build(num_codes: int, code_dim: int) -> Step:
        import vector_quantize_pytorch

        sizes = {"dim": code_dim} if name != "FSQ" else {}
        if name not in ("FSQ", "LFQ"):
            sizes["codebook_size"] = num_codes
        layer: Any = getattr(vector_quantize_pytorch, name)(**sizes, **settings).to(DEVICE)

        def step(h: Tensor) -> Tensor:
            z_q, _, *losses = layer(h.flatten(2).mT)
            return z_q.sum() + sum((loss.sum() for loss in losses), h.new_zeros(()))

        return step

    return build


def nearest(
    levels: int = 1, through: Literal["affine", "linear"] | None = None, turns: bool = False
) -> Callable[[int, int], Step]:
    """VQ-VAE with a codebook loss, and what is made of it."""

    def build(num_codes: int, code_dim: int) -> Step:
        books = torch.randn(levels, num_codes, code_dim, device=DEVICE)
        books.requires_grad_(through != "linear")
        matrix = torch.eye(code_dim, device=DEVICE, requires_grad=True)
        bias = torch.zeros(code_dim, device=DEVICE, requires_grad=True)

        def step(h: Tensor) -> Tensor:
            vectors = h.permute(0, 2, 3, 1).reshape(-1, code_dim)
            left, z_q, loss = vectors, torch.zeros_like(vectors), h.new_zeros(())
            for book in books:
                codes = book @ matrix if through == "linear" else book
                codes = (1 + 10 * bias) * codes + 10 * bias if through == "affine" else codes
                distances = (
                    left.pow(2).sum(1, keepdim=True) - 2 * left @ codes.T + codes.pow(2).sum(1)
                )
                found = F.embedding(distances.argmin(dim=1), codes)
                loss = loss + F.mse_loss(found, left.detach()) + F.mse_loss(left, found.detach())
                left, z_q = left - found.detach(), z_q + found
            out = turned(vectors, z_q) if turns else vectors + (z_q - vectors).detach()
            return out.sum() + loss

        return step

    return build


def turned(z: Tensor, z_q: Tensor) -> Tensor:
    """The rotation trick (Fifty et al. 2024, 4.2): a reflection, a reflection, and a scale."""
    z_q = z_q.detach()
    norm, norm_q = z.detach().norm(dim=1, keepdim=True), z_q.norm(dim=1, keepdim=True)
    a, b = z.detach() / norm, z_q / norm_q
    middle = F.normalize(a + b, dim=1)
    turn = z - 2 * (z * middle).sum(1, keepdim=True) * middle + 2 * (z * a).sum(1, keepdim=True) * b
    return norm_q / norm * turn


def fsq(num_codes: int, code_dim: int) -> Step:
    """Mentzer et al. 2023, 3.1, with eight levels a channel."""

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1)
        half = 7 * 1.001 / 2
        bounded = (vectors + torch.tensor(0.5 / half).atanh()).tanh() * half - 0.5
        z_q = (bounded + (bounded.round() - bounded).detach()) / 4
        codes = ((z_q * 4 + 4) * torch.tensor([1.0, 8.0, 64.0], device=DEVICE)).sum(dim=-1)
        return z_q.sum() + 0 * codes.detach().long().sum()

    return step


def lfq(num_codes: int, code_dim: int) -> Step:
    """MAGVIT-v2 eq. 4, with the probabilities of all codes."""
    bits = torch.arange(num_codes, device=DEVICE)[:, None] >> torch.arange(code_dim, device=DEVICE)
    codes = (bits % 2 * 2 - 1).float()

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1).reshape(-1, code_dim)
        z_q = torch.where(vectors > 0, 1.0, -1.0)
        p = (2 * vectors @ codes.T).softmax(dim=1)
        mean = p.mean(dim=0)
        entropies = -(p * (p + 1e-10).log()).sum(dim=1).mean() + (mean * (mean + 1e-10).log()).sum()
        out = vectors + (z_q - vectors).detach()
        return out.sum() + entropies + F.mse_loss(vectors, z_q)

    return step


def gumbel_softmax(logits: Tensor) -> Tensor:
    """As in sony/sqvae."""
    gumbel = -torch.log(-torch.log(torch.rand_like(logits) + 1e-10) + 1e-10)
    return ((logits + gumbel) / TEMPERATURE).softmax(-1)


def vmf(num_codes: int, code_dim: int) -> Step:
    """SQ-VAE's form on the sphere."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)
    log_kappa = torch.tensor(3.0, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        vectors = F.normalize(h.permute(0, 2, 3, 1).reshape(-1, code_dim), dim=1)
        unit, kappa = F.normalize(codes, dim=1), 1 + log_kappa.exp()
        logits = kappa * vectors @ unit.T
        z_q = gumbel_softmax(logits) @ unit
        discrete = (logits.softmax(-1) * logits.log_softmax(-1)).sum() / len(h)
        return z_q.sum() + discrete + kappa * (vectors * (vectors - z_q)).sum() / len(h)

    return step


def gs_vq(num_codes: int, code_dim: int) -> Step:
    """F.gumbel_softmax of minus the squared distances."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        flat = h.permute(0, 2, 3, 1).reshape(-1, code_dim)
        logits = 2 * flat @ codes.T - flat.pow(2).sum(1, keepdim=True) - codes.pow(2).sum(1)
        z_q = F.gumbel_softmax(logits, tau=TEMPERATURE, dim=1) @ codes
        q = logits.softmax(dim=1)
        return z_q.sum() + (q * torch.log(q * num_codes + 1e-10)).sum(dim=1).mean()

    return step


def ema(num_codes: int, code_dim: int) -> Step:
    """VQ-VAE-EMA: distances and one-hot rows of all vectors and codes, sums by a product."""
    codes = torch.randn(code_dim, num_codes, device=DEVICE)
    sizes, sums = torch.ones(num_codes, device=DEVICE), codes.clone()

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1)
        flat = vectors.detach().reshape(-1, code_dim)
        distances = (
            flat.pow(2).sum(1, keepdim=True) - 2 * flat @ codes + codes.pow(2).sum(0, keepdim=True)
        )
        indices = (-distances).max(dim=1).indices
        one_hot = F.one_hot(indices, num_codes).type(flat.dtype)
        z_q = F.embedding(indices.view(vectors.shape[:-1]), codes.T)
        sizes.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
        sums.mul_(0.99).add_(flat.T @ one_hot, alpha=0.01)
        total = sizes.sum()
        smoothed = (sizes + 1e-5) / (total + num_codes * 1e-5) * total
        commitment = (z_q.detach() - vectors).pow(2).mean()
        out = vectors + (z_q - vectors).detach()
        codes.copy_(sums / smoothed)
        return out.permute(0, 3, 1, 2).sum() + commitment

    return step


def sqvae(num_codes: int, code_dim: int) -> Step:
    """Distances, softmax, its logarithm and the Gumbel sample, each a matrix of its own."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)
    log_variance = torch.tensor(3.0, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        vectors = h.permute(0, 2, 3, 1).contiguous()
        flat = vectors.view(-1, code_dim)
        precision = 0.5 / (1 + log_variance.exp()).clamp(min=1e-10)
        distances = (
            flat.pow(2).sum(1, keepdim=True) + codes.pow(2).sum(1) - 2 * torch.matmul(flat, codes.T)
        )
        logits = -precision * distances
        probabilities, log_probabilities = logits.softmax(-1), logits.log_softmax(-1)
        z_q = torch.mm(gumbel_softmax(logits), codes).view(vectors.shape)
        discrete = (probabilities * log_probabilities).sum() / len(h)
        continuous = ((vectors - z_q).pow(2) * precision).sum() / len(h)
        return z_q.permute(0, 3, 1, 2).sum() + discrete + continuous

    return step


def dvae(num_codes: int, code_dim: int) -> Step:
    """F.gumbel_softmax and einsum."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)

    def step(h: Tensor) -> Tensor:
        weights = F.gumbel_softmax(h, tau=TEMPERATURE, dim=1)
        z_q = torch.einsum("bkhw,kd->bdhw", weights, codes)
        q = h.softmax(dim=1)
        kl = (q * torch.log(q * num_codes + 1e-10)).sum(dim=1).mean()
        return z_q.sum() + kl

    return step


def edvae(num_codes: int, code_dim: int) -> Step:
    """torch.distributions."""
    codes = torch.randn(num_codes, code_dim, device=DEVICE, requires_grad=True)
    temperature = torch.tensor(TEMPERATURE, device=DEVICE)

    def step(h: Tensor) -> Tensor:
        alpha = (h.clamp(max=20).exp() + 1).permute(0, 2, 3, 1)
        kl = kl_divergence(Dirichlet(alpha), Dirichlet(torch.ones_like(alpha))).mean()
        pi = alpha / alpha.sum(dim=-1, keepdim=True)
        weights = RelaxedOneHotCategorical(temperature, probs=pi).rsample()
        return torch.einsum("bhwk,kd->bdhw", weights, codes).sum() + kl

    return step
