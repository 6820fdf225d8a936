"""Quantizers whose code is the nearest row of a codebook: what VQ-VAE and its kin share."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized, Quantizer


class NearestCodeQuantizer(Quantizer, ABC):
    """Reads D features per position; codes are the nearest rows of `codes()`."""

    def __init__(self, num_codes: int, code_dim: int):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = code_dim

    @abstractmethod
    def codes(self) -> Float[Tensor, "K D"]:
        """The vectors that features are compared with, and that the decoder is given."""

    @abstractmethod
    def quantized(
        self,
        z_e: Float[Tensor, "B D H W"],
        z_q: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        generator: torch.Generator | None,
    ) -> Quantized:
        """What `forward` returns of features, their nearest vectors and these vectors' codes."""

    def forward(
        self,
        h: Float[Tensor, "B D H W"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        del temperature  # nothing is relaxed
        # Distances in half precision pick wrong codes.
        with torch.autocast(h.device.type, enabled=False):
            z_e = functional.at_least_float32(h)
            codes = self.codes()
            indices = functional.nearest_map(z_e, codes)
            return self.quantized(z_e, functional.look_up(indices, codes), indices, generator)

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        del generator
        return (functional.nearest_map(h, self.codes()),)

    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        return functional.nearest_certainty(h, self.codes())

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codes())
