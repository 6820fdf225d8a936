"""The base class of quantizers that choose the nearest code: VQ-VAE, VQ-VAE-EMA and VQ-STE++."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized, Quantizer


class NearestCodeQuantizer(Quantizer, ABC):
    """Quantizes D features per position to the nearest row of `codes()` (Euclidean distance)."""

    def __init__(self, num_codes: int, code_dim: int):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = code_dim

    @abstractmethod
    def codes(self) -> Float[Tensor, "K D"]:
        """Return the code vectors, which features are compared with and the decoder reads."""

    @abstractmethod
    def quantized(
        self,
        z_e: Float[Tensor, "B D H W"],
        z_q: Float[Tensor, "B D H W"],
        indices: Int[Tensor, "B H W"],
        generator: torch.Generator | None,
    ) -> Quantized:
        """Build the output of `forward` from features, their nearest code vectors and the codes."""

    def forward(
        self,
        h: Float[Tensor, "B D H W"],
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        del temperature  # there is no relaxation
        # Half precision distances would choose wrong codes.
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
