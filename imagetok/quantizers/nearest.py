"""The base class of quantizers that choose the nearest code: VQ-VAE, VQ-VAE-EMA and VQ-STE++."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized
from imagetok.quantizers.code_probabilities import distance_factors, entropy_penalty
from imagetok.quantizers.codebook_init_reset import CodebookInitReset
from imagetok.quantizers.kernel import KernelQuantizer

Distance = Literal["euclidean", "cosine"]


class NearestCodeQuantizer(KernelQuantizer, ABC):
    """Quantizes D features per position to the nearest row of `codes()` by Euclidean distance.

    With distance `cosine`, features and codes have unit length, for the losses and the decoder too
    (Yu et al. 2022, "Vector-quantized Image Modeling with Improved VQGAN", section 3.2).
    entropy_temperature: temperature of p(k|z) = softmax over k of -||z - e_k||^2 / temperature in
    the entropy penalty; None: no penalty.
    """

    renewal: CodebookInitReset

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        distance: Distance = "euclidean",
        entropy_temperature: float | None = None,
    ):
        super().__init__()
        self.distance: Distance = distance
        self.entropy_temperature = entropy_temperature
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
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        """Build the output of `forward` from features, their nearest code vectors and the codes."""

    def noise(
        self, h: Float[Tensor, "B D H W"], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        return self.renewal.noise(h, generator)

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        del temperature  # there is no relaxation
        z_e = self._features(h)
        codes = self.codes()
        indices = functional.nearest_map(z_e, codes)
        out = self.quantized(z_e, functional.look_up(indices, codes), indices, noise)
        if self.entropy_temperature is None:
            return out
        factors = distance_factors(functional.as_vectors(z_e), codes)
        penalty = entropy_penalty(*factors, self.entropy_temperature / 2)
        return out._replace(losses=out.losses | penalty)

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        del generator
        return (functional.nearest_map(self._features(h), self.codes()),)

    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        return functional.nearest_certainty(self._features(h), self.codes())

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codes())

    def _features(self, h: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        return self._directed(functional.at_least_float32(h))

    def _directed(self, vectors: Float[Tensor, "N D *grid"]) -> Float[Tensor, "N D *grid"]:
        """Return the vectors, of unit length if directions alone are compared."""
        return vectors if self.distance == "euclidean" else normalize(vectors, dim=1)
