"""EdVAE: logits as evidence of a Dirichlet over the code probabilities (EdVAE paper, section 4)."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Dirichlet, kl_divergence

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import Quantized
from imagetok.quantizers.logits import LogitQuantizer, TestRule


class EdVAEConfig(Section):
    """Evidential quantizer with the defaults of the released code, except for the exact KL."""

    kind: Literal["edvae"] = "edvae"
    num_codes: Size = 512
    code_dim: Size = 16
    evidence: Literal["exp", "softplus"] = "exp"
    """Dirichlet concentrations of logits: exp(logit) + 1, clamped, or softplus(logit) + 1."""
    max_logit: Annotated[float, Field(gt=0, le=60)] = 20.0
    """The value at which `exp` clamps the logits."""
    kl: Literal["exact", "torch"] = "exact"
    """The exact KL, or the float32 form of torch.distributions that the released code trains
    with."""
    probabilities: Literal["mean", "sample"] = "mean"
    """Code probabilities in training: the mean of the Dirichlet, or a sample from it."""
    test_rule: TestRule = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("kl",)


class EdVAEQuantizer(LogitQuantizer):
    """Quantizes K logits per position, taken as Dirichlet evidence (eq. 6).

    The concentrations are alpha = exp(min(logit, max_logit)) + 1, or with evidence `softplus`, an
    alternative of the released code, softplus(logit) + 1. kl: `exact`, or `torch`, the float32 form
    of torch.distributions used by the released code, whose gradient vanishes for logits above about
    18. probabilities: code probabilities in training; `mean` is alpha / S (App. B and the released
    code), `sample` is pi ~ Dir(alpha) (Alg. 1). test_rule: `argmax` of the logits (released code),
    or `sample`: pi ~ Dir(alpha), then a code from pi (Alg. 2).
    """

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        evidence: Literal["exp", "softplus"],
        max_logit: float,
        kl: Literal["exact", "torch"],
        probabilities: Literal["mean", "sample"],
        test_rule: TestRule,
    ):
        super().__init__(num_codes, code_dim, in_channels=num_codes, test_rule=test_rule)
        self.evidence = evidence
        self.max_logit = max_logit
        self.kl = kl
        self.probabilities = probabilities
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))

    def noise(
        self, h: Float[Tensor, "B K H W"], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        if self.probabilities == "mean":
            return super().noise(h, generator)
        with torch.no_grad():
            draw = _gamma_draw(self._concentrations(self.logits(h)), generator)
        return draw, *super().noise(h, generator)

    def kernel(
        self,
        h: Float[Tensor, "B K H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        # exp(20) = 5e8 overflows float16, and bfloat16 drops the +1: float32 from here to the KL.
        alpha = self._concentrations(self.logits(h))
        *draw, uniforms = noise
        # softmax needs log pi only up to a constant, so alpha / S enters as log alpha.
        log_pi = _LogOfGamma.apply(alpha, *draw) if draw else alpha.log()
        z_q, indices = functional.relaxed_codes(log_pi, uniforms, self.codebook, temperature)
        return Quantized(
            z_q=z_q,
            indices=(indices,),
            losses={"kl": self._kl(alpha).mean()},
            stats={},
        )

    def logits(self, h: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
        return functional.channels_last(h.float())

    def drawn(
        self, logits: Float[Tensor, "B K H W"], generator: torch.Generator | None
    ) -> Float[Tensor, "B K H W"]:
        return _gamma_draw(self._concentrations(logits), generator).log()

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B K H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        logits = h.float()
        alpha = self._concentrations(logits)
        return {
            "entropy": functional.entropy(alpha.log()),
            "top_logit": logits.amax(dim=1),
            "uncertainty": self.num_codes[0] / alpha.sum(dim=1),
        }

    def _concentrations(self, logits: Tensor) -> Tensor:
        if self.evidence == "softplus":
            return nn.functional.softplus(logits) + 1
        return logits.clamp(max=self.max_logit).exp() + 1

    def _kl(self, alpha: Tensor) -> Tensor:
        if self.kl == "exact":
            return functional.dirichlet_kl_to_uniform(alpha)
        last = alpha.movedim(1, -1)
        return kl_divergence(
            Dirichlet(last, validate_args=False),
            Dirichlet(torch.ones_like(last), validate_args=False),
        )


def _gamma_draw(alpha: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw Gamma(alpha) variates, which are Dir(alpha) distributed once they are normalised.

    torch._standard_gamma is the sampler behind Gamma.rsample, but accepts a generator. Draws that
    are zero in floating point become the smallest number, whose logarithm is finite.
    """
    draw = torch._standard_gamma(alpha.detach(), generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return functional.channels_last(draw.clamp_min_(torch.finfo(draw.dtype).tiny))


class _LogOfGamma(torch.autograd.Function):
    """The logarithm of Gamma(alpha) variates as a function of alpha.

    (alpha, draw) -> log draw, with the implicit gradient of Gamma.rsample; the draw is made before.
    """

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, draw: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, draw)
        return draw.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        alpha, draw = ctx.saved_tensors
        slope = torch._standard_gamma_grad(alpha, draw)  # pyright: ignore[reportPrivateImportUsage]
        return grad / draw * slope, None
