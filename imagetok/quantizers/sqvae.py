"""Gaussian SQ-VAE: stochastic quantization with a learned (types I to IV) or fixed variance."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from imagetok.config import Section, Size
from imagetok.quantizers import functional
from imagetok.quantizers.base import CodebookSize, Quantized
from imagetok.quantizers.logits import LogitQuantizer, TestRule

Variance = Literal["fixed", "I", "II", "III", "IV"]
_MIN_LOG_VARIANCE = math.log(1e-10)


class SQVAEConfig(Section):
    """Gaussian SQ-VAE (Takida et al. 2022); the defaults are those of the released vision code.

    Both losses are sums over the latents and means over the batch, as needed for the likelihoods
    `arelbo` and `gaussian` with weights 1. With `mse`, a mean over pixels, set both weights to
    2 v / (channels * height * width), where v is the decoder's variance.
    """

    kind: Literal["sqvae"] = "sqvae"
    num_codes: CodebookSize = 512
    code_dim: Size = 64
    variance: Variance = "I"
    """Fixed, or learned: I one number, II per image, III per position, IV per position and
    dimension."""
    log_variance: float = math.log(20)
    """Start of the logarithm of the variance."""
    floor: bool = True
    """Keep the released code's lower bound of the variance; only `fixed` and I allow false."""
    test_rule: TestRule = "argmax"
    losses: ClassVar[tuple[str, ...]] = ("continuous", "discrete")

    @model_validator(mode="after")
    def _check(self) -> "SQVAEConfig":
        if not self.floor and self.variance not in ("fixed", "I"):
            raise ValueError(
                f"floor: false needs variance fixed or I, found {self.variance}; set floor=true"
            )
        return self


class SQVAEQuantizer(LogitQuantizer):
    """Samples codes by their Gaussian density around the encoder's output; the variance is learned.

    The variance usually decreases during training, which anneals the sampling. sigma^2 is
    exp(v) + exp(s) with a scalar s that starts at `log_variance`. Type I: v is 0, so sigma^2 never
    falls below 1, as in the released code (floor=False: only exp(s), as in the paper); `fixed`:
    the same with s frozen. Types II, III and IV read v from the second half of the 2D channels:
    its mean per image, its mean per position, or itself, one value per position and dimension.
    test_rule: `argmax` of the logits, or `sample`.
    """

    log_variance: Tensor

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        variance: Variance,
        log_variance: float,
        floor: bool,
        test_rule: TestRule,
    ):
        num_heads = 1 if variance in ("fixed", "I") else 2
        super().__init__(num_codes, code_dim, num_heads * code_dim, test_rule)
        self.num_heads = num_heads
        self.variance: Variance = variance
        self.floor = floor
        self.codebook = nn.Parameter(torch.randn(num_codes, code_dim))
        start = torch.tensor(log_variance)
        if variance == "fixed":
            self.register_buffer("log_variance", start)
        else:
            self.log_variance = nn.Parameter(start)

    def kernel(
        self,
        h: Float[Tensor, "B C H W"],
        temperature: Float[Tensor, ""],
        noise: tuple[Tensor, ...],
    ) -> Quantized:
        (uniforms,) = noise
        z, variance = self._posterior(h)
        logits = functional.gaussian_logits(z, self.codebook, variance)
        z_q, indices = functional.relaxed_codes(logits, uniforms, self.codebook, temperature)
        continuous = ((z - z_q).square() / (2 * variance)).sum() / len(h)
        # sum_k P ln P; the constant ln K of the uniform prior is left out.
        discrete = -functional.entropy(logits).sum() / len(h)
        return Quantized(
            z_q=z_q,
            indices=(indices,),
            losses={"continuous": continuous, "discrete": discrete},
            stats={},
        )

    def logits(self, h: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        z, variance = self._posterior(h)
        return functional.gaussian_logits(z, self.codebook, variance)

    @torch.no_grad()
    def certainty(self, h: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B H W"]]:
        with torch.autocast(h.device.type, enabled=False):
            z, variance = self._posterior(h)
            logits = functional.gaussian_logits(z, self.codebook, variance)
            shared = (z.square() / (2 * variance)).sum(dim=1)  # the term that the logits leave out
        return {
            "entropy": functional.entropy(logits),
            "top_logit": logits.amax(dim=1) - shared,
            "variance": variance.mean(dim=1).expand(len(z), *z.shape[2:]),
        }

    def _posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean (B, D, H, W) and a variance that broadcasts to it."""
        features = functional.channels_last(h.to(self.codebook.dtype))
        z, v = features[:, : self.code_dim], features[:, self.code_dim :]
        match self.variance:
            case "fixed" | "I":
                v = z.new_full((1, 1, 1, 1), 0.0 if self.floor else -math.inf)
            case "II":
                v = v.mean(dim=(1, 2, 3), keepdim=True)
            case "III":
                v = v.mean(dim=1, keepdim=True)
            case "IV":
                pass
        # ln(exp(v) + exp(s)) without overflow.
        log_variance = torch.logaddexp(v, self.log_variance.expand_as(v))
        return z, log_variance.clamp_min(_MIN_LOG_VARIANCE).exp()
