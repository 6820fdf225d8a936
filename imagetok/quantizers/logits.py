"""The base class of quantizers with a logit per code: dVAE, EdVAE, GS-VQ-VAE and SQ-VAE."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imagetok.quantizers import functional
from imagetok.quantizers.base import Codes
from imagetok.quantizers.kernel import KernelQuantizer

TestRule = Literal["argmax", "sample"]
"""The code in eval mode: the most likely one, or a sample from the code probabilities."""


class LogitQuantizer(KernelQuantizer, ABC):
    """Chooses codes by logits over the K rows of `codes()`.

    test_rule: `argmax` of the logits, or `sample`.
    """

    codebook: nn.Parameter

    def __init__(self, num_codes: int, code_dim: int, in_channels: int, test_rule: TestRule):
        super().__init__()
        self.num_codes = (num_codes,)
        self.code_dim = code_dim
        self.in_channels = in_channels
        self.test_rule: TestRule = test_rule

    def noise(
        self, h: Float[Tensor, "B C H W"], generator: torch.Generator | None
    ) -> tuple[Tensor, ...]:
        """Draw the uniforms of the relaxed codes, (N, K) with a row per position."""
        positions = len(h) * h.shape[2:].numel()
        uniforms = self.codebook.new_empty(positions, *self.num_codes)
        return (uniforms.uniform_(generator=generator),)

    @abstractmethod
    def logits(self, h: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Return the logits of every code at every position; called outside of autocast."""

    def codes(self) -> Float[Tensor, "K D"]:
        """Return the code vectors, the decoder's input; by default the codebook."""
        return self.codebook

    def drawn(
        self, logits: Float[Tensor, "B K H W"], generator: torch.Generator | None
    ) -> Float[Tensor, "B K H W"]:
        """Return the logits that test rule `sample` draws from; by default the given ones."""
        del generator
        return logits

    def encode(
        self, h: Float[Tensor, "B C H W"], *, generator: torch.Generator | None = None
    ) -> Codes:
        with torch.autocast(h.device.type, enabled=False):
            logits = self.logits(h)
            if self.test_rule == "sample":
                logits = self.drawn(logits, generator)
                # Gumbel-max: the argmax of logits plus noise is a sample from the softmax.
                logits = logits + functional.gumbel_noise(logits, generator)
        return (functional.most_likely(logits),)

    def decode(self, indices: Codes) -> Float[Tensor, "B D H W"]:
        return functional.look_up(indices[0], self.codes())
