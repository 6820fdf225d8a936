"""GS-VQ-VAE: code probabilities from distances, trained with the Gumbel-softmax."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Quantized
from imagetok.quantizers.logits import LogitQuantizer, TestRule


class GSVQConfig(Section):
    """VQ-VAE with Gumbel-softmax sampling, the GS-VQ-VAE of the EdVAE paper (App. C)."""

    kind: Literal["gs-vqvae"] = "gs-vqvae"
    num_codes: CodebookSize = 512
    code_dim: Size = 16
    test_rule: TestRule = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("kl",)


class GSVQQuantizer(LogitQuantizer):
    """Quantizes D features per position; the logit of a code is minus its squared distance.

    Gradients reach encoder and codebook through the logits and the mixture; there is no
    straight-through estimator. test_rule: `argmax` of the logits (the nearest code), or `sample`.
    Codes are initialised uniformly in (-1/K, 1/K), where all distances are similar, so that
    training starts slowly.
    """

    def __init__(self, num_codes: int, code_dim: int, test_rule: TestRule):
        super().__init__(num_codes, code_dim, in_channels=code_dim, test_rule=test_rule)
        codebook = torch.empty(num_codes, code_dim).uniform_(-1 / num_codes, 1 / num_codes)
        self.codebook = nn.Parameter(codebook)

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        (uniforms,) = noise
        logits = self.logits(h)
        z_q, indices = functional.relaxed_codes(logits, uniforms, self.codebook, temperature)
        return Quantized(
            z_q=z_q,
            indices=(indices,),
            losses={"kl": functional.categorical_kl_to_uniform(logits).mean()},
            stats={},
        )

    def logits(self, h: Float[Tensor, "B D H W"]) -> Float[Tensor, "B K H W"]:
        z = functional.channels_last(h.to(self.codebook.dtype))
        # -||z - e||^2 is the exponent of a Gaussian with variance 1/2; ||z||^2, which is the same
        # for all codes, is left out.
        return functional.gaussian_logits(z, self.codebook, z.new_full((1, 1, 1, 1), 0.5))

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        with torch.autocast(h.device.type, enabled=False):
            logits = self.logits(h)
            top = logits.amax(dim=1) - h.to(logits.dtype).square().sum(dim=1)
        return {"entropy": functional.entropy(logits), "top_logit": top}
