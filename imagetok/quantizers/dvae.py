"""dVAE: a categorical over the codes, trained through the Gumbel-softmax relaxation."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from imagetok.config import Section
from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes, Quantized, Quantizer


class DVAEConfig(Section):
    """Gumbel-softmax quantizer (Ramesh et al. 2021; the dVAE of the EdVAE paper)."""

    kind: Literal["dvae"] = "dvae"
    num_codes: PositiveInt = 512
    code_dim: PositiveInt = 16
    test_rule: Literal["argmax", "sample"] = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("kl",)


class DVAEQuantizer(Quantizer):
    """Reads K logits per position; decodes by codebook lookup.

    The released code takes the argmax at test time and the paper's text a sample: `test_rule`.
    """

    def __init__(self, num_codes: int, code_dim: int, test_rule: Literal["argmax", "sample"]):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = num_codes
        self.test_rule = test_rule
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))

    def forward(
        self,
        h: Float[Tensor, "B K H W"],
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        with torch.autocast(h.device.type, enabled=False):  # log-sum-exp over K in half is noise
            logits = functional.channels_last(h.float())
            z_q, indices = functional.draw_relaxed(logits, self.codebook, temperature, generator)
            return Quantized(
                z_q=z_q,
                indices=(indices,),
                losses={"kl": functional.categorical_kl_to_uniform(logits).mean()},
                stats={},
            )

    def encode(
        self, h: Float[Tensor, "B K H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        logits = functional.channels_last(h.float())
        if self.test_rule == "sample":
            logits = logits + functional.gumbel_noise(logits, generator)
        return (functional.most_likely(logits),)

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B K H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        logits = h.float()
        return {"entropy": functional.entropy(logits), "top_logit": logits.amax(dim=1)}

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codebook)
