"""Quantizers of vector-quantize-pytorch behind our contract: FSQ, LFQ, residual VQ, SimVQ, and VQ
with the rotation trick.

The library finds codes, looks them up and shapes the gradient. It is used without anything that it
would change in a forward pass (moving averages, dead codes, k-means): codebooks are parameters, and
losses are written here, unweighted and by name, where the library gives one weighted sum.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.optional import require
from imagetok.processes import full_float32
from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized, Quantizer

_LIBRARY = "vector_quantize_pytorch"
_MAX_CODES = 2**16
# The library's modules are made in memory before an artifact's weights are compared with them.
_NumCodes = Annotated[int, Field(ge=2, le=_MAX_CODES)]
_CodeDim = Annotated[int, Field(ge=1, le=256)]
_VECTOR_LOSSES = "codebook", "commitment"


class FSQConfig(Section):
    """Finite scalar quantization (Mentzer et al. 2023): every channel is rounded to its levels.

    K is the product of `levels`, D their number. There is no codebook to learn, and no loss.
    """

    kind: Literal["fsq"] = "fsq"
    levels: tuple[Annotated[int, Field(ge=3, le=_MAX_CODES)], ...] = (8, 5, 5, 5)
    """Number of values per dimension; their product is K."""
    losses: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _check(self) -> "FSQConfig":
        if not self.levels or self.num_codes > _MAX_CODES:
            raise ValueError(
                f"levels: expected one or more whose product, the number of codes, is at most "
                f"{_MAX_CODES}; found {list(self.levels)}, product {self.num_codes}"
            )
        return self

    @property
    def num_codes(self) -> int:
        """K."""
        return math.prod(self.levels)


class LFQConfig(Section):
    """Lookup-free quantization (Yu et al. 2023, MAGVIT-v2): a code is the signs of D channels.

    `sample_entropy` is low where the encoder is sure; `diversity`, minus the entropy of the mean
    probabilities of a micro-batch, is low where codes are used alike. temperature: of the
    probabilities in both.
    """

    kind: Literal["lfq"] = "lfq"
    code_dim: Annotated[int, Field(ge=1, le=16)] = 10
    """D, the number of signs; K is 2^D."""
    temperature: PositiveFloat = 0.01
    """Temperature of the probabilities in the losses."""
    losses: ClassVar[tuple[str, ...]] = ("sample_entropy", "diversity", "commitment")

    @property
    def num_codes(self) -> int:
        """K."""
        return 2**self.code_dim


class ResidualVQConfig(Section):
    """Residual VQ (Zeghidour et al. 2021, Alg. 1): each level quantizes what those before left.

    Every level has a codebook of `num_codes`, and its codes have the same grid. Losses are sums
    over the levels.
    """

    kind: Literal["residual-vq"] = "residual-vq"
    num_codes: _NumCodes = 512
    """K of each level."""
    code_dim: _CodeDim = 16
    num_levels: Annotated[int, Field(ge=2, le=16)] = 4
    """Number of codebooks, each for the residual of those before."""
    losses: ClassVar[tuple[str, ...]] = _VECTOR_LOSSES


class SimVQConfig(Section):
    """SimVQ (Zhu et al. 2024): fixed random codes seen through one learned linear map."""

    kind: Literal["simvq"] = "simvq"
    num_codes: _NumCodes = 512
    code_dim: _CodeDim = 16
    losses: ClassVar[tuple[str, ...]] = _VECTOR_LOSSES


class RotationVQConfig(Section):
    """VQ with the rotation trick (Fifty et al. 2024): gradients are turned with the vectors."""

    kind: Literal["rotation-vq"] = "rotation-vq"
    num_codes: _NumCodes = 512
    code_dim: _CodeDim = 16
    losses: ClassVar[tuple[str, ...]] = _VECTOR_LOSSES


ExternalConfig = FSQConfig | LFQConfig | ResidualVQConfig | SimVQConfig | RotationVQConfig


def build_external(config: ExternalConfig) -> "ExternalQuantizer":
    """The quantizer that a section describes; ResourceError without the library."""
    num_levels = config.num_levels if isinstance(config, ResidualVQConfig) else 1
    code_dim = len(config.levels) if isinstance(config, FSQConfig) else config.code_dim
    # On the CPU also where a skeleton is asked for: some of its tensors are not in a state dict.
    with torch.device("cpu"):
        purpose = f"tokenizer.quantizer.kind: {config.kind!r}"
        module = _build_module(config, require(_LIBRARY, extra="zoo", purpose=purpose))
    temperature = config.temperature if isinstance(config, LFQConfig) else None
    num_codes = (config.num_codes,) * num_levels
    return ExternalQuantizer(module, num_codes, code_dim, config.losses, temperature)


def _build_module(config: ExternalConfig, library: Any) -> nn.Module:
    learned = {"learnable_codebook": True, "ema_update": False, "commitment_weight": 0.0}
    match config:
        case FSQConfig():
            return library.FSQ(levels=list(config.levels))
        case LFQConfig():
            return library.LFQ(dim=config.code_dim)
        case ResidualVQConfig():
            return library.ResidualVQ(
                dim=config.code_dim,
                codebook_size=config.num_codes,
                num_quantizers=config.num_levels,
                quant_grad_frac=1.0,  # else the gradient of z_q is the number of levels
                rotation_trick=False,
                **learned,
            )
        case SimVQConfig():
            return library.SimVQ(
                dim=config.code_dim, codebook_size=config.num_codes, rotation_trick=False
            )
        case RotationVQConfig():
            return library.VectorQuantize(
                dim=config.code_dim, codebook_size=config.num_codes, rotation_trick=True, **learned
            )
        case _:
            assert_never(config)


class ExternalQuantizer(Quantizer):
    """A module of the library, given one row a position.

    library: takes (1, N, D) and returns the quantized and their indices (1, N) or (1, N, L) first.
    temperature: of LFQ's probabilities.
    """

    def __init__(
        self,
        library: nn.Module,
        num_codes: tuple[int, ...],
        code_dim: int,
        losses: tuple[str, ...],
        temperature: float | None,
    ):
        super().__init__()
        self.num_codes = num_codes
        self.code_dim = code_dim
        self.in_channels = code_dim
        self.library = library
        self.losses = losses
        self.temperature = temperature
        self.train()

    @property
    def _is_lfq(self) -> bool:
        return self.temperature is not None

    def train(self, mode: bool = True) -> "ExternalQuantizer":
        """The library gives no gradient in evaluation mode; here the two paths are two methods.

        LFQ's is not missed, and its training mode makes entropies of all vectors and codes.
        """
        super().train(mode)
        self.library.train(not self._is_lfq)
        return self

    def forward(
        self,
        h: Float[Tensor, "B D H W"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        del temperature, generator  # nothing is relaxed, nothing is drawn
        # Distances in half precision pick wrong codes, and so do those in TF32.
        with torch.autocast(h.device.type, enabled=False), full_float32():
            vectors = functional.as_vectors(functional.at_least_float32(h))
            z_q, indices = self._quantize(vectors)
            return Quantized(
                z_q=_as_map(z_q, h),
                indices=tuple(_as_map(level[:, None], h)[:, 0] for level in indices.unbind(1)),
                losses=self._losses(vectors, indices),
                stats={},
            )

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        with torch.no_grad():
            return self.forward(h, generator=generator).indices

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        flat = torch.stack([level.flatten() for level in indices], dim=1)
        with torch.autocast(flat.device.type, enabled=False), full_float32():
            z_q = self._look_up(flat).sum(dim=0)
        return z_q.unflatten(0, indices[0].shape).movedim(-1, 1)

    def _quantize(self, vectors: Float[Tensor, "N D"]) -> tuple[Tensor, Int[Tensor, "N L"]]:
        found, indices, *_ = self.library(vectors.contiguous()[None])
        z_q = vectors + (found[0] - vectors).detach() if self._is_lfq else found[0]
        return z_q, indices[0].long().view(len(vectors), -1)

    def _look_up(self, indices: Int[Tensor, "N L"]) -> Float[Tensor, "L N D"]:
        """What each level adds to the vectors."""
        library: Any = self.library
        if len(self.num_codes) > 1:
            return library.get_codes_from_indices(indices[None])[:, 0]
        look_up = getattr(library, "indices_to_codes", None) or library.get_codes_from_indices
        return look_up(indices.T)

    def _losses(
        self, vectors: Float[Tensor, "N D"], indices: Int[Tensor, "N L"]
    ) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        if "commitment" in self.losses:
            codes = self._look_up(indices)
            before = codes.detach().cumsum(dim=0) - codes.detach()
            left = vectors - before  # (L, N, D), what each level quantizes
            # VQ-VAE (van den Oord et al. 2017) eq. 3, second and third term; sums over levels
            values["codebook"] = (left.detach() - codes).square().mean(dim=(1, 2)).sum()
            values["commitment"] = (left - codes.detach()).square().mean(dim=(1, 2)).sum()
        if self.temperature is not None:
            # MAGVIT-v2 eq. 4: p is a softmax of minus the squared distances to all codes. These
            # are all patterns of signs, so p is a product over bits with log-odds 4 z / T, and no
            # matrix of all vectors and codes is made.
            log_odds = 4 * vectors / self.temperature
            bits = F.binary_cross_entropy_with_logits(
                log_odds, log_odds.sigmoid(), reduction="none"
            )
            values["sample_entropy"] = bits.sum(dim=1).mean()
            first, second = log_odds.tensor_split(2, dim=1)
            mean = _patterns(first).T @ _patterns(second) / len(vectors)
            # Where a code has probability 0, the gradient of its logarithm is none.
            log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
            values["diversity"] = (mean * log_mean).sum()
        return {name: values[name] for name in self.losses}


def _patterns(log_odds: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
    """The probabilities of all K = 2^D patterns of D bits."""
    p = log_odds.new_ones(len(log_odds), 1)
    for odds in log_odds.unbind(dim=1):
        on, off = odds[:, None].sigmoid(), (-odds)[:, None].sigmoid()
        p = torch.cat([p * off, p * on], dim=1)
    return p


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    """(N, C) rows as the map (B, C, H, W) whose positions they are."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)
