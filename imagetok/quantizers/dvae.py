"""dVAE: a categorical over the codes, trained through the Gumbel-softmax relaxation."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import Quantized
from imagetok.quantizers.logits import LogitQuantizer, TestRule


class DVAEConfig(Section):
    """Gumbel-softmax quantizer (Ramesh et al. 2021; the dVAE of the EdVAE paper)."""

    kind: Literal["dvae"] = "dvae"
    num_codes: Size = 512
    code_dim: Size = 16
    test_rule: TestRule = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("kl",)


class DVAEQuantizer(LogitQuantizer):
    """Quantizes K logits per position; codes are decoded by codebook lookup.

    test_rule: `argmax` as in the released code, or `sample` as in the paper's text.
    """

    def __init__(self, num_codes: int, code_dim: int, test_rule: TestRule):
        super().__init__(num_codes, code_dim, in_channels=num_codes, test_rule=test_rule)
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))

    def kernel(
        self,
        h: Float[Tensor, "B K H W"],
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

    def logits(self, h: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
        return functional.channels_last(h.float())

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B K H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        logits = h.float()
        return {"entropy": functional.entropy(logits), "top_logit": logits.amax(dim=1)}
