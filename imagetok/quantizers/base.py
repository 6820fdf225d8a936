"""The contract of every quantizer: pure maths behind `forward`, `encode` and `decode`."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

# An underscore leaves an axis unchecked: each level has a grid of its own.
Codes = tuple[Int[Tensor, "B _h _w"], ...]


class Quantized(NamedTuple):
    """What a quantizer returns in training."""

    z_q: Float[Tensor, "B D H W"]
    """What the decoder sees; carries the gradient."""
    indices: Codes
    """Hard codes per level, each in [0, num_codes[level])."""
    losses: dict[str, Tensor]
    """Unweighted scalars by name: `kl`, `commitment`, ..."""
    stats: dict[str, Tensor]
    """What `update` needs, additive over micro-batches and ranks: counts, sums. Often empty."""


class Quantizer(nn.Module, ABC):
    """Maps encoder outputs to codes and codes to vectors; state changes only in `update`."""

    num_codes: tuple[int, ...]
    """K of each level."""
    code_dim: int
    """D, the channels that the decoder is given."""
    in_channels: int
    """The channels that the encoder must give: K logits or D features."""

    @abstractmethod
    def forward(
        self,
        h: Float[Tensor, "B C H W"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantize for training; differentiable, and changes no state.

        h: (B, in_channels, H, W) encoder output. temperature: of the relaxation, > 0.
        generator: on h's device; the source of all noise (None: torch's global one).
        """

    @abstractmethod
    def encode(
        self, h: Float[Tensor, "B C H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        """Hard codes per level; deterministic unless the quantizer's test rule samples."""

    @abstractmethod
    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        """Look the codes up in the codebook."""

    def certainty(self, h: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        """How sure the encoder is at every position; empty where it gives no probabilities.

        `entropy`: of the code probabilities without noise and temperature, in nats.
        `top_logit`: the largest logit. `uncertainty`: K / S of a Dirichlet, in (0, 1].
        `variance`: of a stochastic quantizer's Gaussian, mean over dimensions.
        """
        del h
        return {}

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor], generator: torch.Generator) -> None:
        """Change running state once per optimizer step, from stats summed over the whole batch.

        generator: a CPU generator that is the same on every rank. Most quantizers have no such
        state; evaluation never calls this.
        """
        del stats, generator
