"""VQ-STE++: affine codes, synchronised and alternating updates of the codebook."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Quantized
from imagetok.quantizers.codebook_init_reset import (
    CodebookInitReset,
    Init,
    LeastRecentlyUsedReset,
    ResetConfig,
    initial_codebook,
)
from imagetok.quantizers.nearest import NearestCodeQuantizer

_LEAST_GAIN = 0.1


class AffineConfig(Section):
    """Codes (1 + rate s) e + rate b, with s and b of D channels shared by the codes of a group."""

    rate: PositiveFloat = 10.0
    """Learning rate of scale and shift, relative to the codes."""
    groups: Size = 1
    """Number of groups of codes, each with its own scale and shift; divides K."""


class AlternationConfig(Section):
    """The codebook takes gradient steps of its own after each step of the other parameters."""

    steps: Size = 1
    """Steps of the codebook after each step of the other parameters."""
    rate: PositiveFloat = 50.0
    """The loss is a mean over all vectors and channels, so its gradient is small."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of those steps."""


class VQSTEConfig(Section):
    """VQ-STE++ (Huh et al. 2023); the defaults are those of its released code's example."""

    kind: Literal["vq-ste++"] = "vq-ste++"
    num_codes: CodebookSize = 512
    code_dim: Size = 16
    beta: Annotated[float, Field(ge=0, le=1)] = 0.98
    """Weight of the codebook term; the commitment term has 1 - beta."""
    affine: AffineConfig | None = AffineConfig()
    """The affine map of the codes; null: none."""
    synchronisation: NonNegativeFloat = 0.2
    """nu, the share of the decoder's gradient that reaches the codebook."""
    alternation: AlternationConfig | None = None
    """Steps of the codebook alone; null: none."""
    init: Init = "kmeans"
    reset: ResetConfig = LeastRecentlyUsedReset()
    losses: ClassVar[tuple[str, ...]] = ("vq",)

    @model_validator(mode="after")
    def _check(self) -> "VQSTEConfig":
        if self.affine is not None and self.num_codes % self.affine.groups:
            raise ValueError(
                f"num_codes ({self.num_codes}) must be a multiple of affine.groups "
                f"({self.affine.groups})"
            )
        return self


class Affine(nn.Module):
    """Shared affine map of the codes of a group, so that unused codes follow the encoder too.

    Code k belongs to group k // (K / groups).
    """

    def __init__(self, code_dim: int, rate: float, groups: int):
        super().__init__()
        self.rate = rate
        self.scale = nn.Parameter(torch.zeros(groups, 1, code_dim))
        self.bias = nn.Parameter(torch.zeros(groups, 1, code_dim))

    def forward(self, codebook: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        """Map the codebook to the effective codes."""
        grouped = codebook.view(len(self.scale), -1, codebook.shape[1])
        return (self._gain() * grouped + self.rate * self.bias).view_as(codebook)

    def inverse(self, codes: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        """Return the codebook whose effective codes are these."""
        grouped = codes.view(len(self.scale), -1, codes.shape[1])
        gain = self._gain()
        # The gain is kept away from 0, so that the result stays finite, even if it is not exact.
        gain = torch.where(gain < 0, -1.0, 1.0) * gain.abs().clamp_min(_LEAST_GAIN)
        return ((grouped - self.rate * self.bias) / gain).view_as(codes)

    def pull_back(self, gradient: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
        """Convert the gradient of the effective codes to that of the codebook."""
        grouped = gradient.view(len(self.scale), -1, gradient.shape[1])
        return (self._gain() * grouped).view_as(gradient)

    def _gain(self) -> Tensor:
        return 1 + self.rate * self.scale


class Alternation(nn.Module):
    """Gradient descent with momentum on the codebook loss, with a fixed assignment of vectors."""

    velocity: Tensor

    def __init__(self, num_codes: int, code_dim: int, steps: int, rate: float, momentum: float):
        super().__init__()
        self.steps = steps
        self.rate = rate
        self.momentum = momentum
        self.register_buffer("velocity", torch.zeros(num_codes, code_dim))

    def forward(
        self, codebook: Float[Tensor, "K D"], affine: Affine | None, stats: dict[str, Tensor]
    ) -> Float[Tensor, "K D"]:
        """Return the codebook after the steps; stats: `counts`, `sums` of assigned vectors."""
        for _ in range(self.steps):
            codes = codebook if affine is None else affine(codebook)
            gradient = functional.codebook_gradient(codes, stats["counts"], stats["sums"])
            if affine is not None:
                gradient = affine.pull_back(gradient)
            self.velocity.mul_(self.momentum).add_(gradient)
            codebook = codebook - self.rate * self.velocity
        return codebook


class VQSTEQuantizer(NearestCodeQuantizer):
    """Quantizes D features per position to the nearest affine code; straight-through estimator.

    The only loss, `vq`, is (1 - beta) mean (z - sg[z_q])^2 + beta mean (sg[z] - z_q)^2: beta is the
    weight of the codebook term, unlike in VQ-VAE. With everything off (affine and alternation None,
    synchronisation 0), beta 0.8 and weight 1.25, this is VQ-VAE with commitment weight 0.25.

    With alternation, the codebook is a buffer that `update` changes, and the codebook term and the
    decoder's gradient (`synchronisation`) only train the affine parameters. The released code takes
    these steps in the forward pass by automatic differentiation, so that the decoder sees their
    result at once; here they follow the step of the other parameters, in closed form from sums over
    the whole batch. The released code refuses a beta other than 1 beside them.
    """

    codebook: Tensor

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        beta: float,
        affine: Affine | None,
        synchronisation: float,
        alternation: Alternation | None,
        renewal: CodebookInitReset,
    ):
        super().__init__(num_codes, code_dim)
        self.beta = beta
        self.affine = affine
        self.synchronisation = synchronisation
        self.alternation = alternation
        self.renewal = renewal
        codebook = initial_codebook(num_codes, code_dim, renewal.init)
        if alternation is None:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)

    def codes(self) -> Float[Tensor, "K D"]:
        return self.codebook if self.affine is None else self.affine(self.codebook)

    def quantized(
        self,
        z_e: Float[Tensor, "B D H W"],
        z_q: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        out = functional.straight_through(z_e, z_q)
        if self.synchronisation:
            out = out + self.synchronisation * (z_q - z_q.detach())  # adds only a gradient
        commitment = (z_e - z_q.detach()).square().mean()
        codebook = (z_e.detach() - z_q).square().mean()
        stats = self.renewal.stats(z_e, indices, noise)
        if self.alternation is not None:
            counts, sums = functional.code_sums(
                functional.as_vectors(z_e.detach()), indices.flatten(), self.num_codes[0]
            )
            stats |= {"counts": counts, "sums": sums}
        return Quantized(
            z_q=out,
            indices=(indices,),
            losses={"vq": (1 - self.beta) * commitment + self.beta * codebook},
            stats=stats,
        )

    @torch.no_grad()
    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        if self.alternation is not None:
            self.codebook.copy_(self.alternation(self.codebook, self.affine, stats))
        renewed = self.renewal(self.codes(), stats, generator)
        if renewed is None:
            return {}
        codes, rows = renewed.codebook, renewed.rows
        raw = codes if self.affine is None else self.affine.inverse(codes)
        self.codebook.copy_(torch.where(rows[:, None], raw, self.codebook))
        if self.alternation is not None:
            self.alternation.velocity.masked_fill_(rows[:, None], 0)
            return {}
        return {"codebook": rows}
