"""Soft-to-hard VQ: the decoder is given a mixture of all codes, by their distance."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

import imagetok
from imagetok.quantizers import Codes, KernelQuantizer, Quantized, QuantizerSection, functional
from imagetok.quantizers.base import CodebookSize


class SoftVQConfig(QuantizerSection):
    """Soft-to-hard quantization (Agustsson et al. 2017, eq. 2); hard as the temperature falls."""

    kind: Literal["soft-vq"] = "soft-vq"
    num_codes: CodebookSize = 512
    code_dim: PositiveInt = 16
    losses: ClassVar[tuple[str, ...]] = ("commitment",)  # what `objective.weights` must name


@imagetok.register(SoftVQConfig)
class SoftVQQuantizer(KernelQuantizer):
    """Reads D features per position."""

    def __init__(self, config: SoftVQConfig):
        super().__init__()
        self.num_codes = (config.num_codes,)  # one level
        self.code_dim = self.in_channels = config.code_dim
        self.codebook = nn.Parameter(torch.randn(config.num_codes, config.code_dim))

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        del noise  # nothing is drawn
        z = functional.at_least_float32(h)  # distances in half precision are noise
        # The Gaussian's exponent at variance 1/2 is minus the squared distance.
        half = z.new_full((1, 1, 1, 1), 0.5)
        logits = functional.gaussian_logits(z, self.codebook, half)
        z_q = functional.mix_codes((logits / temperature).softmax(dim=1), self.codebook)
        indices = logits.argmax(dim=1)
        nearest = functional.look_up(indices, self.codebook.detach())
        losses = {"commitment": (z - nearest).square().mean()}
        return Quantized(z_q, (indices,), losses, stats={})

    def encode(
        self, h: Float[Tensor, "B D H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        return self.forward(h).indices

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codebook)
