"""VQ-VAE with an EMA codebook: nearest code, straight-through gradient."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from imagetok.config import Section
from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized, Quantizer


class VQEMAConfig(Section):
    """VQ-VAE-EMA (van den Oord et al. 2017, App. A.1)."""

    kind: Literal["vqvae-ema"] = "vqvae-ema"
    num_codes: PositiveInt = 512
    code_dim: PositiveInt = 16
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    losses: ClassVar[tuple[str, ...]] = ("commitment",)


class VQEMAQuantizer(Quantizer):
    """Reads D features per position; its codebook follows the encoder by moving averages.

    Codes start uniform in (-1/K, 1/K) with cluster size 1, so that a code that is never used keeps
    its value (starting the sizes at 0 throws such codes to a norm of 1e5 on the first step).
    """

    codebook: Tensor
    cluster_size: Tensor

    def __init__(self, num_codes: int, code_dim: int, decay: float):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = code_dim
        self.decay = decay
        codebook = torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)
        self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", torch.ones(num_codes))

    def forward(
        self,
        h: Float[Tensor, "B D H W"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        del temperature, generator  # nothing is relaxed, nothing is drawn
        # Distances in half precision pick wrong codes.
        with torch.autocast(h.device.type, enabled=False):
            z_e = h.float()
            (indices,) = self.encode(z_e)
            z_q = self.decode((indices,))
            with torch.no_grad():
                vectors = z_e.movedim(1, -1).flatten(0, 2)  # (B*H*W, D)
                counts, sums = functional.code_sums(vectors, indices.flatten(), self.num_codes[0])
            return Quantized(
                z_q=z_e + (z_q - z_e).detach(),
                indices=(indices,),
                # eq. 3, third term; the codebook is a buffer and gets no gradient.
                losses={"commitment": (z_e - z_q).square().mean()},
                stats={"counts": counts, "sums": sums},
            )

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        del generator
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            vectors = h.float().movedim(1, -1).flatten(0, 2)  # (B*H*W, D)
            indices = functional.nearest_codes(vectors, self.codebook)
            return (indices.view(h.shape[0], *h.shape[2:]),)

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codebook)

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor], generator: torch.Generator) -> None:
        del generator
        codebook, cluster_size = functional.ema_codebook(
            self.codebook, self.cluster_size, stats["counts"], stats["sums"], self.decay
        )
        self.codebook.copy_(codebook)
        self.cluster_size.copy_(cluster_size)
