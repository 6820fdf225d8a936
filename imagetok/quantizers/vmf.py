"""vMF SQ-VAE: stochastic quantization on the sphere, for label maps."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Quantized
from imagetok.quantizers.logits import LogitQuantizer, TestRule


class VMFSQVAEConfig(Section):
    """SQ-VAE with von Mises-Fisher densities (Takida et al. 2022).

    Both losses are sums over the latents and means over the batch, as the likelihood `vmf` is a
    sum over pixels. `log_concentration` is the initial s in kappa = 1 + exp(s).
    """

    kind: Literal["vmf-sqvae"] = "vmf-sqvae"
    num_codes: CodebookSize = 64
    code_dim: Size = 64
    log_concentration: float = math.log(0.05)
    """Start of s in kappa = 1 + exp(s)."""
    test_rule: TestRule = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("continuous", "discrete")


class VMFSQVAEQuantizer(LogitQuantizer):
    """Samples unit code vectors by their vMF density around the encoder's direction.

    The density exp(kappa z . e) on the unit sphere, with a learned kappa, is a Gaussian with
    variance 1 / kappa restricted to the sphere. As in the released code, the mixture of codes in
    training is not normalised to the sphere.
    """

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        log_concentration: float,
        test_rule: TestRule,
    ):
        super().__init__(num_codes, code_dim, in_channels=code_dim, test_rule=test_rule)
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))
        self.log_concentration = nn.Parameter(torch.tensor(log_concentration))

    def kernel(
        self,
        h: Float[Tensor, "B D H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        (uniforms,) = noise
        z, codes, kappa = self._on_sphere(h)
        logits = functional.mix_codes(kappa * z, codes.T)  # kappa z . e
        z_q, indices = functional.relaxed_codes(logits, uniforms, codes, temperature)
        continuous = kappa * (z * (z - z_q)).sum() / len(h)
        # sum_k P ln P; the constant ln K of the uniform prior is left out.
        discrete = -functional.entropy(logits).sum() / len(h)
        return Quantized(
            z_q=z_q,
            indices=(indices,),
            losses={"continuous": continuous, "discrete": discrete},
            stats={},
        )

    def logits(self, h: Float[Tensor, "B D H W"]) -> Float[Tensor, "B K H W"]:
        z, codes, kappa = self._on_sphere(h)
        return functional.mix_codes(kappa * z, codes.T)  # kappa z . e

    def codes(self) -> Float[Tensor, "K D"]:
        return nn.functional.normalize(self.codebook, dim=1)

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B D H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        with torch.autocast(h.device.type, enabled=False):
            logits = self.logits(h)
        variance = 1 / (1 + self.log_concentration.exp())
        return {
            "entropy": functional.entropy(logits),
            "top_logit": logits.amax(dim=1),
            "variance": variance.expand(len(h), *h.shape[2:]),
        }

    def _on_sphere(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit directions (B, D, H, W), unit codes (K, D), and kappa."""
        z = functional.channels_last(h.to(self.codebook.dtype))
        kappa = 1 + self.log_concentration.exp()
        return nn.functional.normalize(z, dim=1), self.codes(), kappa
