"""VQ-VAE: nearest code and straight-through estimator; a codebook trained by gradient or by EMA."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Quantized
from imagetok.quantizers.code_probabilities import EntropyTemperature, penalty_names
from imagetok.quantizers.codebook_init_reset import (
    CodebookInitReset,
    Init,
    NoReset,
    ResetConfig,
    ResetResult,
    initial_codebook,
)
from imagetok.quantizers.nearest import Distance, NearestCodeQuantizer

QuantizationError = Literal["mean-square", "norm-of-squares"]
Averages = Literal["increments", "zeros", "debiased", "ones"]
"""How VQ-VAE-EMA averages; see `VQEMAConfig.averages`."""


class VQConfig(Section):
    """VQ-VAE with a codebook loss (van den Oord et al. 2017, eq. 3)."""

    kind: Literal["vqvae"] = "vqvae"
    num_codes: CodebookSize = 512
    code_dim: Size = 16
    init: Init = "uniform"
    reset: ResetConfig = NoReset()
    error: QuantizationError = "mean-square"
    """Form of both losses. `mean-square`: the mean of (z_e - z_q)^2 over all values.
    `norm-of-squares`: the mean over positions of the Euclidean norm over channels of (z_e - z_q)^2,
    as in the public code nadavbh12/VQ-VAE."""
    distance: Distance = "euclidean"
    """By which the nearest code is chosen. `cosine`: features and codes are brought to unit length
    first, as in Improved VQGAN and LlamaGen, which also use a `code_dim` of 4 to 32."""
    entropy_temperature: EntropyTemperature | None = None
    """Temperature T of the code probabilities p = softmax(-squared distance / T) in an entropy
    penalty, two more losses: `sample_entropy`, low if every position has one probable code, and
    `diversity`, minus the entropy of the mean probabilities of a micro-batch of a process, low if
    codes are used equally. LlamaGen has it with T = 0.01; null: no penalty."""
    added: ClassVar[tuple[str, ...]] = ("error", "distance", "entropy_temperature")

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("codebook", "commitment", *penalty_names(self.entropy_temperature))


class VQEMAConfig(Section):
    """VQ-VAE-EMA (van den Oord et al. 2017, App. A.1)."""

    kind: Literal["vqvae-ema"] = "vqvae-ema"
    num_codes: CodebookSize = 512
    code_dim: Size = 16
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving averages that form the codes."""
    averages: Averages = "increments"
    """Moving averages behind the codes. `zeros`: sizes of clusters from 0, sums from the codes, as
    in rosinality's VQ-VAE-2. `debiased`: both from 0 and debiased, as in Sonnet. `ones`: sizes from
    1, as in Jukebox. A code is a sum divided by a smoothed size; one that is not used drifts
    towards zero and can come back. `increments`: sums are not kept, and an unused code stays."""
    init: Init = "uniform"
    reset: ResetConfig = NoReset()
    distance: Distance = "euclidean"
    """By which the nearest code is chosen. `cosine`: features are brought to unit length first, and
    codes are the directions of their averages."""
    entropy_temperature: EntropyTemperature | None = None
    """Temperature T of the code probabilities p = softmax(-squared distance / T) in an entropy
    penalty, two more losses: `sample_entropy`, low if every position has one probable code, and
    `diversity`, minus the entropy of the mean probabilities of a micro-batch of a process, low if
    codes are used equally. Null: no penalty."""
    added: ClassVar[tuple[str, ...]] = ("averages", "distance", "entropy_temperature")

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("commitment", *penalty_names(self.entropy_temperature))


class VQQuantizer(NearestCodeQuantizer):
    """Quantizes D features per position; the codebook is a parameter with its own loss.

    `codebook` trains the codes, `commitment` the encoder; both are the same error (`VQConfig`).
    """

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        renewal: CodebookInitReset,
        error: QuantizationError = "mean-square",
        distance: Distance = "euclidean",
        entropy_temperature: float | None = None,
    ):
        super().__init__(num_codes, code_dim, distance, entropy_temperature)
        self.error: QuantizationError = error
        self.codebook = nn.Parameter(initial_codebook(num_codes, code_dim, renewal.init))
        self.renewal = renewal

    def codes(self) -> Float[Tensor, "K D"]:
        return self._directed(self.codebook)

    def quantized(
        self,
        z_e: Float[Tensor, "B D H W"],
        z_q: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        return Quantized(
            z_q=functional.straight_through(z_e, z_q),
            indices=(indices,),
            losses={
                # eq. 3, second and third term
                "codebook": self._error(z_e.detach(), z_q),
                "commitment": self._error(z_e, z_q.detach()),
            },
            stats=self.renewal.stats(z_e, indices, noise),
        )

    def _error(self, z_e: Tensor, z_q: Tensor) -> Tensor:
        squares = (z_e - z_q).square()
        return (squares.norm(dim=1) if self.error == "norm-of-squares" else squares).mean()

    @torch.no_grad()
    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        renewed = self.renewal(self.codebook, stats, generator)
        if renewed is None:
            return {}
        self.codebook.copy_(renewed.codebook)
        return {"codebook": renewed.rows}


class VQEMAQuantizer(NearestCodeQuantizer):
    """Quantizes D features per position; the codebook is an EMA of the assigned encoder outputs.

    Unless `averages` is `increments`, the moving averages of the sizes and sums of the clusters are
    both stored, and the codes are their smoothed quotients. A code that is replaced counts as one
    vector: its size becomes 1, its sum the code.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    num_updates: Tensor

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        decay: float,
        averages: Averages,
        renewal: CodebookInitReset,
        distance: Distance = "euclidean",
        entropy_temperature: float | None = None,
    ):
        super().__init__(num_codes, code_dim, distance, entropy_temperature)
        self.decay = decay
        self.averages: Averages = averages
        codebook = initial_codebook(num_codes, code_dim, renewal.init)
        sizes = torch.zeros if averages in ("zeros", "debiased") else torch.ones
        self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", sizes(num_codes))
        if averages != "increments":
            sums = torch.zeros_like if averages == "debiased" else torch.clone
            self.register_buffer("cluster_sum", sums(codebook))
        if averages == "debiased":
            self.register_buffer("num_updates", torch.tensor(0))
        self.renewal = renewal

    def codes(self) -> Float[Tensor, "K D"]:
        return self._directed(self.codebook)

    def quantized(
        self,
        z_e: Float[Tensor, "B D H W"],
        z_q: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        counts, sums = functional.code_sums(
            functional.as_vectors(z_e.detach()), indices.flatten(), self.num_codes[0]
        )
        return Quantized(
            z_q=functional.straight_through(z_e, z_q),
            indices=(indices,),
            # eq. 3, third term; the codebook is a buffer without gradient.
            losses={"commitment": (z_e - z_q).square().mean()},
            stats={"counts": counts, "sums": sums} | self.renewal.stats(z_e, indices, noise),
        )

    @torch.no_grad()
    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        if self.averages == "increments":
            codebook, cluster_size = functional.ema_increments(
                self.codebook, self.cluster_size, stats["counts"], stats["sums"], self.decay
            )
            self.codebook.copy_(codebook)
            self.cluster_size.copy_(cluster_size)
        else:
            decay = self._next_decay()
            self.cluster_size.mul_(decay).add_((1 - decay) * stats["counts"])
            self.cluster_sum.mul_(decay).add_((1 - decay) * stats["sums"])
            self.codebook.copy_(functional.smoothed_means(self.cluster_size, self.cluster_sum))
        renewed = self.renewal(self.codebook, stats, generator)
        if renewed is not None:
            self._replace(renewed)
        return {}

    def _next_decay(self) -> float | Tensor:
        if self.averages != "debiased":
            return self.decay
        self.num_updates.add_(1)
        return functional.debiased_decay(self.decay, self.num_updates.to(self.cluster_size.dtype))

    def _replace(self, renewed: ResetResult) -> None:
        self.codebook.copy_(renewed.codebook)
        self.cluster_size.masked_fill_(renewed.rows, 1)
        if self.averages != "increments":
            rows = renewed.rows[:, None]
            self.cluster_sum.copy_(torch.where(rows, renewed.codebook, self.cluster_sum))
