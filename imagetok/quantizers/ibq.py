"""IBQ: the code with the largest inner product, and a gradient for every code."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.precision import full_float32
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Codes, Quantized
from imagetok.quantizers.code_probabilities import (
    EntropyTemperature,
    entropy_penalty,
    index_gradient,
    penalty_names,
)
from imagetok.quantizers.fused import rows_per_chunk
from imagetok.quantizers.kernel import KernelQuantizer


class IBQConfig(Section):
    """Index backpropagation quantization (Shi et al. 2024, arXiv 2412.02692).

    The logit of a code is its inner product with the feature. The one-hot index of the largest is
    differentiated as their softmax, so that every code has a gradient. Losses are the three squared
    errors of the released code, equal in value: `quantization`, whose gradient takes this path to
    features and all codes, `commitment`, for features, and `codebook`, for the chosen codes. There,
    their weights are 1, 1 and 0.25.
    """

    kind: Literal["ibq"] = "ibq"
    num_codes: CodebookSize = 512
    code_dim: Size = 16
    entropy_temperature: EntropyTemperature | None = 0.01
    """Temperature T of the code probabilities softmax(logits / T) in an entropy penalty, two more
    losses: `sample_entropy` and `diversity`, minus the entropy of the mean probabilities of a
    micro-batch of a process. The released code gives both the weight 0.05; null: no penalty."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses."""
        return ("quantization", "commitment", "codebook", *penalty_names(self.entropy_temperature))


class IBQQuantizer(KernelQuantizer):
    """Quantizes D features per position to the code with the largest inner product.

    entropy_temperature: temperature of the code probabilities in the entropy penalty; None: no
    penalty. Codes start at N(0, 1), as in the released code.
    """

    def __init__(self, num_codes: int, code_dim: int, entropy_temperature: float | None):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = code_dim
        self.entropy_temperature = entropy_temperature
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        del temperature, noise  # there is no sampling
        z = functional.at_least_float32(h)
        vectors = functional.as_vectors(z)
        (indices,) = self.encode(z)
        chosen = functional.look_up(indices, self.codebook)
        to_all = index_gradient(vectors, self.codebook).view(*indices.shape, -1).movedim(-1, 1)
        z_q = chosen + to_all
        losses = {
            "quantization": (z_q - z).square().mean(),
            "commitment": (chosen.detach() - z).square().mean(),
            "codebook": (chosen - z.detach()).square().mean(),
        }
        penalty = entropy_penalty(vectors, self.codebook, self.entropy_temperature)
        return Quantized(z_q=z_q, indices=(indices,), losses=losses | penalty, stats={})

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        del generator
        return (functional.nearest_map(h, self.codebook, functional.most_similar_codes),)

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codebook)

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        z = functional.at_least_float32(h)
        errors = functional.as_vectors(z - self.decode(self.encode(h)))
        maps = functional.commitments(errors)
        with torch.autocast(h.device.type, enabled=False), full_float32():
            parts = functional.as_vectors(z).split(rows_per_chunk(self.num_codes[0], h.device))
            rows = [_certainty(part @ self.codebook.T) for part in parts]
            maps |= {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return {name: values.view(h.shape[0], *h.shape[2:]) for name, values in maps.items()}


def _certainty(logits: Float[Tensor, "N K"]) -> dict[str, Float[Tensor, " N"]]:
    entropy = functional.entropy(logits[:, :, None, None])[:, 0, 0]
    return {"entropy": entropy, "top_logit": logits.amax(dim=1)}
