"""A tokenizer with one encoder, one quantizer and one decoder."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from imagetok.images import Images
from imagetok.networks import VQVAE2Config, build_network
from imagetok.quantizers import Codes, Quantized, build_quantizer
from imagetok.tokenizers.base import Part, Reconstruction, Tokenizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.deferred_checks import check_features
from imagetok.tokenizers.likelihood import build_likelihood


class FlatTokenizer(Tokenizer):
    """A tokenizer with one encoder, one quantizer and one decoder.

    Its likelihood converts images to network inputs and decoder outputs to images.
    """

    prefixes: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "quantizer": ("quantizer",),
        "decoder": ("decoder", "likelihood"),
    }

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.image = config.image
        (quantizer,) = config.levels
        assert not isinstance(config.network, VQVAE2Config)
        self.quantizer = build_quantizer(quantizer)
        self.likelihood = build_likelihood(config.likelihood, config.image, config.network.pixels)
        self.encoder, self.decoder = build_network(
            config.network,
            self.likelihood.channels,
            self.quantizer.in_channels,
            self.quantizer.code_dim,
            num_heads=self.quantizer.num_heads,
            is_bounded=self.likelihood.is_linear,
            size=(config.image.height, config.image.width),
        )
        self.num_codes = self.quantizer.num_codes
        self.grids = config.grids * len(self.num_codes)

    def _forward(
        self, images: Images, temperature: float | Tensor, generator: torch.Generator | None
    ) -> Reconstruction:
        h = self.encoder(self.likelihood.to_network(images))
        quantized: Quantized = self.quantizer(h, temperature=temperature, generator=generator)
        out = self.decoder(quantized.z_q)
        losses = {"reconstruction": self.likelihood.loss(out, images), **quantized.losses}
        return Reconstruction(
            self.likelihood.to_image(out), losses, quantized.indices, quantized.stats
        )

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        replaced = self.quantizer.update(stats, generator)
        return {f"quantizer.{name}": rows for name, rows in replaced.items()}

    def codebook(self, level: int) -> Float[Tensor, "K D"] | None:
        del level  # several levels are residual, and are summed
        return self.quantizer.vectors()

    def _encode(self, images: Tensor, generator: torch.Generator | None) -> Codes:
        return self.quantizer.encode(self._features(images), generator=generator)

    def _encode_with_certainty(
        self, images: Tensor, generator: torch.Generator | None
    ) -> tuple[Codes, dict[str, Tensor]]:
        h = self._features(images)
        return self.quantizer.encode(h, generator=generator), self.quantizer.certainty(h)

    def _encode_between(
        self, images: Tensor, others: Tensor, share: Tensor, generator: torch.Generator | None
    ) -> Codes:
        h = torch.lerp(self._features(images), self._features(others), share)
        return self.quantizer.encode(h, generator=generator)

    def _features(self, images: Tensor) -> Tensor:
        h = self.encoder(self.likelihood.to_network(images))
        check_features(h)
        return h

    def _decoder_output(self, codes: Codes) -> Tensor:
        return self.decoder(self.quantizer.decode(codes))
