"""Quantizers of vector-quantize-pytorch: FSQ, LFQ, residual VQ, SimVQ, and VQ with the rotation
trick.

The library chooses codes, looks them up and defines the gradient. Its features that change state
in a forward pass (moving averages, dead code replacement, k-means) are off: codebooks are
parameters. Losses are computed here, unweighted and by name, because the library returns one
weighted sum.
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
from imagetok.precision import full_float32
from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized
from imagetok.quantizers.kernel import KernelQuantizer

_LIBRARY = "vector_quantize_pytorch"
_MAX_CODES = 2**16
# The library allocates its modules before the weights of an artifact are checked.
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
        """Codebook size K: the product of `levels`."""
        return math.prod(self.levels)


class LFQConfig(Section):
    """Lookup-free quantization (Yu et al. 2023, MAGVIT-v2): a code is the signs of D channels.

    `sample_entropy` is low if the encoder is certain; `diversity`, minus the entropy of the mean
    probabilities of a micro-batch, is low if codes are used equally. temperature: temperature of
    the probabilities in both.
    """

    kind: Literal["lfq"] = "lfq"
    code_dim: Annotated[int, Field(ge=1, le=16)] = 10
    """D, the number of signs; K is 2^D."""
    temperature: PositiveFloat = 0.01
    """Temperature of the probabilities in the losses."""
    losses: ClassVar[tuple[str, ...]] = ("sample_entropy", "diversity", "commitment")

    @property
    def num_codes(self) -> int:
        """Codebook size K = 2^D."""
        return 2**self.code_dim


class ResidualVQConfig(Section):
    """Residual VQ (Zeghidour et al. 2021, Alg. 1): each level quantizes the residual of the last.

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
    """SimVQ (Zhu et al. 2024): fixed random codes, transformed by one learned linear map."""

    kind: Literal["simvq"] = "simvq"
    num_codes: _NumCodes = 512
    code_dim: _CodeDim = 16
    losses: ClassVar[tuple[str, ...]] = _VECTOR_LOSSES


class RotationVQConfig(Section):
    """VQ with the rotation trick (Fifty et al. 2024): gradients are rotated like the vectors."""

    kind: Literal["rotation-vq"] = "rotation-vq"
    num_codes: _NumCodes = 512
    code_dim: _CodeDim = 16
    losses: ClassVar[tuple[str, ...]] = _VECTOR_LOSSES


ExternalConfig = FSQConfig | LFQConfig | ResidualVQConfig | SimVQConfig | RotationVQConfig


def build_external(config: ExternalConfig) -> "ExternalQuantizer":
    """Build the quantizer of a config section; raise ResourceError without the library."""
    num_levels = config.num_levels if isinstance(config, ResidualVQConfig) else 1
    code_dim = len(config.levels) if isinstance(config, FSQConfig) else config.code_dim
    # Always on the CPU, also for a skeleton: some of its tensors are not in the state dict.
    with torch.device("cpu"):
        purpose = f"tokenizer.quantizer.kind: {config.kind!r}"
        module = _build_module(config, require(_LIBRARY, extra="zoo", purpose=purpose))
    part: Any
    for part in module.modules():
        if hasattr(part, "init_embed_"):
            part.init_embed_ = _without_k_means
    temperature = config.temperature if isinstance(config, LFQConfig) else None
    num_codes = (config.num_codes,) * num_levels
    return ExternalQuantizer(module, num_codes, code_dim, config.losses, temperature)


def _without_k_means(vectors: Tensor, mask: Tensor | None = None) -> None:
    """Leave the codes as they are; the library would first read its flag from the device."""
    del vectors, mask


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
                quant_grad_frac=1.0,  # otherwise z_q has the number of levels as its gradient
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


class ExternalQuantizer(KernelQuantizer):
    """Adapter for a quantizer module of vector-quantize-pytorch.

    library: maps (1, N, D) to quantized vectors, indices (1, N) or (1, N, L), and more. losses:
    names of the losses to compute. temperature: temperature of LFQ's probabilities; None for the
    other quantizers.
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

    def forward(
        self,
        h: Float[Tensor, "B D H W"],
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        if self._compiled is not None:
            self._require_gradients_of_library()
        return super().forward(h, temperature=temperature, generator=generator)

    @property
    def _is_lfq(self) -> bool:
        return self.temperature is not None

    def train(self, mode: bool = True) -> "ExternalQuantizer":
        """Keep the library in training mode, because it returns no gradient in eval mode.

        LFQ is kept in eval mode: its gradient is added in `_quantize`, and its training mode
        computes entropies over all pairs of vectors and codes.
        """
        super().train(mode)
        self.library.train(not self._is_lfq)
        return self

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        del temperature, noise  # there is no relaxation and no noise
        vectors = functional.as_vectors(functional.at_least_float32(h))
        z_q, indices = self._quantize(vectors)
        return Quantized(
            z_q=_as_map(z_q, h),
            indices=tuple(_as_map(level[:, None], h)[:, 0] for level in indices.unbind(1)),
            losses=self._losses(vectors, indices),
            stats={},
        )

    def _require_gradients_of_library(self) -> None:
        """Do what VectorQuantize does to the start of its loss while it runs, where torch cannot.

        torch compiles no `requires_grad_` that changes something.
        """
        for name, buffer in self.library.named_buffers():
            if name.rpartition(".")[2] == "zero":
                buffer.requires_grad_()

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

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        if "commitment" not in self.losses:
            return {}
        with torch.autocast(h.device.type, enabled=False), full_float32():
            vectors = functional.as_vectors(functional.at_least_float32(h))
            inputs, codes = self._levels(vectors, self._quantize(vectors)[1])
            maps = functional.commitments(inputs - codes)
        return {name: values.view(h.shape[0], *h.shape[2:]) for name, values in maps.items()}

    def _levels(
        self, vectors: Float[Tensor, "N D"], indices: Int[Tensor, "N L"]
    ) -> tuple[Float[Tensor, "L N D"], Float[Tensor, "L N D"]]:
        """Return what each level quantizes, and its code vectors."""
        codes = self._look_up(indices)
        before = codes.detach().cumsum(dim=0) - codes.detach()
        return vectors - before, codes

    def _quantize(self, vectors: Float[Tensor, "N D"]) -> tuple[Tensor, Int[Tensor, "N L"]]:
        levels = len(self.num_codes)
        if not len(vectors):  # the library's quantizers cannot take none
            return vectors, torch.zeros(0, levels, dtype=torch.int64, device=vectors.device)
        found, indices, *_ = self.library(vectors.contiguous()[None])
        z_q = vectors + (found[0] - vectors).detach() if self._is_lfq else found[0]
        return z_q, indices[0].long().view(len(vectors), levels)

    def _look_up(self, indices: Int[Tensor, "N L"]) -> Float[Tensor, "L N D"]:
        """Return the vectors of each level, which are summed, (L, N, D)."""
        library: Any = self.library
        levels = len(self.num_codes)
        if not len(indices):
            return torch.zeros(levels, 0, self.code_dim, device=indices.device)
        if levels > 1:
            return library.get_codes_from_indices(indices[None])[:, 0]
        look_up = getattr(library, "indices_to_codes", None) or library.get_codes_from_indices
        return look_up(indices.T)

    def _losses(
        self, vectors: Float[Tensor, "N D"], indices: Int[Tensor, "N L"]
    ) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        if "commitment" in self.losses:
            left, codes = self._levels(vectors, indices)
            # VQ-VAE (van den Oord et al. 2017) eq. 3, second and third term; summed over levels
            values["codebook"] = (left.detach() - codes).square().mean(dim=(1, 2)).sum()
            values["commitment"] = (left - codes.detach()).square().mean(dim=(1, 2)).sum()
        if self.temperature is not None:
            # MAGVIT-v2 eq. 4: p is a softmax of minus the squared distances to all codes. The codes
            # are all patterns of signs, so p is a product over bits with log-odds 4 z / T, and no
            # matrix of vectors x codes is needed.
            log_odds = 4 * vectors / self.temperature
            bits = F.binary_cross_entropy_with_logits(
                log_odds, log_odds.sigmoid(), reduction="none"
            )
            values["sample_entropy"] = bits.sum(dim=1).mean()
            first, second = log_odds.tensor_split(2, dim=1)
            mean = _patterns(first).T @ _patterns(second) / len(vectors)
            # Avoids an infinite gradient where a code has probability 0.
            log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
            values["diversity"] = (mean * log_mean).sum()
        return {name: values[name] for name in self.losses}


def _patterns(log_odds: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
    """Return the probabilities of all K = 2^D patterns of D bits."""
    p = log_odds.new_ones(len(log_odds), 1)
    for odds in log_odds.unbind(dim=1):
        on, off = odds[:, None].sigmoid(), (-odds)[:, None].sigmoid()
        p = torch.cat([p * off, p * on], dim=1)
    return p


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    """Reshape rows (N, C) of positions to a map (B, C, H, W)."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)
