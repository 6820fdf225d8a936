"""The contract of every quantizer: pure maths behind `forward`, `encode` and `decode`.

One of your own is registered (`imagetok.register`) by a file or package of yours, with a
`QuantizerSection`: docs/how-to/own-parts.md. A kind of imagetok's is a file beside this one and a
case of `build.build_quantizer`. `imagetok.testing.check_quantizer` holds both to the contract.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from imagetok.plugins.registry import OwnPart, OwnSection, names_in

# An underscore leaves an axis unchecked: each level has a grid of its own.
Codes = tuple[Int[Tensor, "B _h _w"], ...]

CodebookSize = Annotated[int, Field(ge=2, le=2**24)]
"""K of a codebook in use: one code says nothing, and float32 counts end at 2^24."""


def level_name(name: str, level: int, num_levels: int) -> str:
    """What a measure or loss of one level is called: `kl`, or `kl_level1` where there are more."""
    return name if num_levels == 1 else f"{name}_level{level}"


def is_concatenated(name: str) -> bool:
    """Whether stats of this name are rows, concatenated over micro-batches and ranks, not sums.

    name: as a quantizer calls them, or with a level before it, as in `0.vectors`.
    """
    return name.rpartition(".")[2] == "vectors"


class Quantized(NamedTuple):
    """What a quantizer returns in training."""

    z_q: Float[Tensor, "B D H W"]
    """What the decoder sees; carries the gradient."""
    indices: Codes
    """Hard codes per level, each in [0, num_codes[level])."""
    losses: dict[str, Tensor]
    """Unweighted scalars by name: `kl`, `commitment`, ..."""
    stats: dict[str, Tensor]
    """What `update` needs; often empty. Entries are added up over micro-batches and ranks (counts,
    sums), but for `vectors` (N, D), a few encoder outputs, which are concatenated: by rank, then by
    micro-batch."""


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
    """Maps encoder outputs to codes and codes to vectors; state changes only in `update`."""

    num_codes: tuple[int, ...]
    """K of each level."""
    code_dim: int
    """D, the channels that the decoder is given."""
    in_channels: int
    """The channels that the encoder must give: K logits or D features."""
    num_heads: int = 1
    """How many equal parts, one after the other, these channels are: means and variances are 2."""

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
        """How sure the encoder is at every position; empty where nothing tells.

        `entropy`: of the code probabilities without noise and temperature, in nats.
        `top_logit`: the largest logit. `uncertainty`: K / S of a Dirichlet, in (0, 1].
        `variance`: of a stochastic quantizer's Gaussian, mean over dimensions.
        `margin`: how much closer, in squared distance, the nearest code is than the next one.
        `encoder_norm`: the length of the vector that a nearest code is looked up for.
        """
        del h
        return {}

    @torch.no_grad()
    def vectors(self) -> Float[Tensor, "K D"] | None:
        """What the decoder is given for each code; None where the vectors of levels add up."""
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
        """Change running state once per optimizer step, from the stats of the whole batch.

        stats: combined over micro-batches and ranks as `Quantized.stats` says. generator: a CPU
        generator that is the same on every rank. Most quantizers have no such state; evaluation
        never calls this.

        Returns which rows of which parameters, by name, were replaced: what the optimizer remembers
        of them is then of no use.
        """
        del stats, generator
        return {}
