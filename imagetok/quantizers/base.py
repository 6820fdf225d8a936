"""The interface of all quantizers: `forward`, `encode`, `decode` and `update`.

To add a quantizer without changing imagetok, derive it from `kernel.KernelQuantizer`, or from
`Quantizer` itself, derive its config from `QuantizerSection` and register it with
`imagetok.register`; see docs/how-to/own-parts.md. A built-in quantizer is a file
beside this one and a case of `build.build_quantizer`. `imagetok.testing.check_quantizer` tests the
contract of either.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from imagetok.plugins.registry import OwnPart, OwnSection, names_in

# jaxtyping does not check axes that begin with an underscore: each level has its own grid.
Codes = tuple[Int[Tensor, "B _h _w"], ...]

CodebookSize = Annotated[int, Field(ge=2, le=2**24)]
"""Codebook size K: at least 2, and at most 2^24, the largest exact count in float32."""


def level_name(name: str, level: int, num_levels: int) -> str:
    """Return the name of a measure or loss of a level: `kl`, or `kl_level1` with several levels."""
    return name if num_levels == 1 else f"{name}_level{level}"


def is_concatenated(name: str) -> bool:
    """Return whether stats of this name are concatenated over micro-batches and ranks, not summed.

    name: a key of `Quantized.stats`, possibly with a level before it, as in `0.vectors`.
    """
    return name.rpartition(".")[2] == "vectors"


class Quantized(NamedTuple):
    """Output of a quantizer in training."""

    z_q: Float[Tensor, "B D H W"]
    """Quantized vectors, the decoder's input; carries the gradient."""
    indices: Codes
    """Hard codes per level, each in [0, num_codes[level])."""
    losses: dict[str, Tensor]
    """Unweighted scalars by name: `kl`, `commitment`, ..."""
    stats: dict[str, Tensor]
    """Statistics for `update`; often empty. Entries (counts, sums) are summed over micro-batches
    and ranks, except `vectors` (N, D), a sample of encoder outputs, which are concatenated by rank,
    then by micro-batch."""


class QuantizerSection(OwnSection):
    """Base of the config section of a quantizer of your own.

    Give it `kind: Literal["my-name"] = "my-name"`, its keys, and `losses`. Keys named `num_codes`
    and `code_dim` are what sweeps and tables call K and D.
    """

    losses: ClassVar[tuple[str, ...]]
    """Names of the losses that `forward` returns, which `objective.weights` must name."""
    if TYPE_CHECKING:
        kind: Any  # a Literal of the section

    @classmethod
    def own_part(cls) -> OwnPart:
        from imagetok.quantizers.build import QuantizerConfig

        return OwnPart("quantizer", "kind", ("losses",), names_in(QuantizerConfig, "kind"))


class Quantizer(nn.Module, ABC):
    """Maps encoder outputs to codes, and codes to vectors; only `update` changes state.

    `forward` and `update` read no values from a GPU: the host would wait for it in every step.
    """

    num_codes: tuple[int, ...]
    """Codebook size K of each level."""
    code_dim: int
    """D, the number of channels of the decoder's input."""
    in_channels: int
    """Number of channels of the encoder's output: K logits or D features."""
    num_heads: int = 1
    """Number of equal parts of `in_channels`: 2 if they are means and variances."""

    @abstractmethod
    def forward(
        self,
        h: Float[Tensor, "B C H W"],
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Quantize for training; differentiable, and changes no state.

        h: (B, in_channels, H, W) encoder output. temperature: temperature of the relaxation, > 0;
        a number, or a scalar on the device of h.
        generator: random generator on h's device (None: torch's global one).
        """

    @abstractmethod
    def encode(
        self, h: Float[Tensor, "B C H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        """Return hard codes (B, H, W) per level; deterministic unless `test_rule` is `sample`."""

    @abstractmethod
    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        """Return the vectors (B, D, H, W) of codes."""

    def certainty(self, h: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        """Return maps of certainty and commitment at every position; empty if there are none.

        `entropy`: entropy of the code probabilities without noise and temperature, in nats.
        `top_logit`: the largest logit. `uncertainty`: K / S of a Dirichlet, in (0, 1].
        `variance`: variance of a stochastic quantizer's Gaussian, mean over dimensions.
        `margin`: squared distance to the second nearest code minus that to the nearest one.
        `encoder_norm`: norm of the encoder output, for nearest-neighbour quantizers.
        `commitment`: (z_e - z_q)^2, the commitment loss of the position, mean over dimensions and
        sum over residual levels. `commitment_norm`: the norm of the squared differences instead.
        """
        del h
        return {}

    @torch.no_grad()
    def vectors(self) -> Float[Tensor, "K D"] | None:
        """Return the vector of each code, (K, D); None for residual levels, which are summed."""
        if len(self.num_codes) != 1:
            return None
        num_codes = self.num_codes[0]
        device = next(self.parameters(), next(self.buffers(), torch.empty(0))).device
        every = torch.arange(num_codes, device=device).view(1, 1, -1)
        return self.decode((every,))[0, :, 0].T

    @torch.no_grad()
    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        """Update running state (EMA, codebook reset) once per optimizer step.

        stats: `Quantized.stats`, combined over micro-batches and ranks. generator: a CPU generator
        that is the same on every rank. Most quantizers have no such state; evaluation never calls
        this.

        Returns by parameter name a mask of the rows that were replaced; their optimizer state has
        to be discarded.
        """
        del stats, generator
        return {}
