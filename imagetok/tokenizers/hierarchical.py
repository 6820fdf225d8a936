"""A tokenizer with a quantizer per level, each conditioned on the coarser ones (VQ-VAE-2)."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from imagetok.images import Images
from imagetok.networks import Hierarchy, VQVAE2Config
from imagetok.quantizers import Codes, Quantized, Quantizer, build_quantizer, level_name
from imagetok.tokenizers.base import Part, Reconstruction, Tokenizer
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.deferred_checks import check_features
from imagetok.tokenizers.likelihood import build_likelihood


class HierarchicalTokenizer(Tokenizer):
    """A tokenizer with two or more grids of codes; names of losses and maps include the level.

    The codes of a level depend on its features and on the quantized vectors of the coarser levels,
    so a change of coarse codes changes the finer ones. What upsamples coarse vectors is therefore
    of the encoder, though decoding uses it too.
    """

    prefixes: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "quantizer": ("quantizers",),
        "decoder": ("network.decoder", "likelihood"),
    }

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        assert isinstance(config.network, VQVAE2Config)
        self.config = config
        self.image = config.image
        built = [build_quantizer(section) for section in config.levels]
        self.quantizers = nn.ModuleList(built)
        self.likelihood = build_likelihood(config.likelihood, config.image, config.network.pixels)
        self.network = Hierarchy(
            config.network,
            self.likelihood.channels,
            tuple(quantizer.in_channels for quantizer in built),
            tuple(quantizer.code_dim for quantizer in built),
        )
        self.num_codes = tuple(k for quantizer in built for k in quantizer.num_codes)
        self.grids = tuple(
            grid
            for quantizer, grid in zip(built, config.grids, strict=True)
            for _ in quantizer.num_codes
        )

    def _forward(
        self, images: Images, temperature: float | Tensor, generator: torch.Generator | None
    ) -> Reconstruction:
        quantized: list[Quantized] = []

        def quantize(quantizer: Quantizer, h: Tensor) -> Tensor:
            quantized.append(quantizer(h, temperature=temperature, generator=generator))
            return quantized[-1].z_q

        out = self.network.decode(self._descend(images, quantize))
        losses = {"reconstruction": self.likelihood.loss(out, images)}
        stats: dict[str, Tensor] = {}
        for level, part in enumerate(quantized):
            losses |= {self._name(name, level): value for name, value in part.losses.items()}
            stats |= {f"{level}.{name}": value for name, value in part.stats.items()}
        indices = tuple(level for part in quantized for level in part.indices)
        return Reconstruction(self.likelihood.to_image(out), losses, indices, stats)

    def networks(self) -> list[nn.Module]:
        net = self.network
        inner = (net.encoders, net.conditions, net.read_outs, net.doublings)
        return [part for parts in inner for part in parts] + [net.decoder]

    def update(
        self, stats: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Bool[Tensor, " K"]]:
        replaced: dict[str, Tensor] = {}
        for level, quantizer in enumerate(self._quantizers):
            prefix = f"{level}."
            own = {k.removeprefix(prefix): v for k, v in stats.items() if k.startswith(prefix)}
            rows = quantizer.update(own, generator)
            replaced |= {f"quantizers.{level}.{name}": mask for name, mask in rows.items()}
        return replaced

    def codebook(self, level: int) -> Float[Tensor, "K D"] | None:
        owners = [quantizer for quantizer in self._quantizers for _ in quantizer.num_codes]
        return owners[level].vectors()

    def _encode(self, images: Tensor, generator: torch.Generator | None) -> Codes:
        return self._encode_with_certainty(images, generator)[0]

    def _encode_with_certainty(
        self, images: Tensor, generator: torch.Generator | None
    ) -> tuple[Codes, dict[str, Tensor]]:
        codes: list[Codes] = []
        maps: dict[str, Tensor] = {}

        def quantize(quantizer: Quantizer, h: Tensor) -> Tensor:
            check_features(h)
            named = quantizer.certainty(h)
            maps.update({self._name(name, len(codes)): value for name, value in named.items()})
            codes.append(quantizer.encode(h, generator=generator))
            return quantizer.decode(codes[-1])

        self._descend(images, quantize)
        return tuple(level for part in codes for level in part), maps

    def _encode_between(
        self, images: Tensor, others: Tensor, share: Tensor, generator: torch.Generator | None
    ) -> Codes:
        codes: list[Codes] = []

        def quantize(quantizer: Quantizer, h: Tensor) -> Tensor:
            check_features(h)
            first, second = h.chunk(2)
            between = torch.lerp(first, second, share)
            codes.append(quantizer.encode(between, generator=generator))
            return quantizer.decode(codes[-1]).repeat(2, 1, 1, 1)  # the context of both images

        self._descend(torch.cat([images, others]), quantize)
        return tuple(level for part in codes for level in part)

    def _decoder_output(self, codes: Codes) -> Tensor:
        context, remaining = None, iter(codes)
        for level, quantizer in enumerate(self._quantizers):
            z_q = quantizer.decode(tuple(islice(remaining, len(quantizer.num_codes))))
            context = self.network.descend(level, context, z_q)
        assert context is not None
        return self.network.decode(context)

    def _descend(self, images: Tensor, quantize: Callable[[Quantizer, Tensor], Tensor]) -> Tensor:
        """Return the decoder's input; `quantize(quantizer, h)` returns each level's vectors."""
        features = self.network.features(self.likelihood.to_network(images))
        context = None
        for level, quantizer in enumerate(self._quantizers):
            h = self.network.read_out(level, features[level], context)
            context = self.network.descend(level, context, quantize(quantizer, h))
        assert context is not None
        return context

    @property
    def _quantizers(self) -> list[Quantizer]:
        return cast(list[Quantizer], list(self.quantizers))

    def _name(self, name: str, level: int) -> str:
        return level_name(name, level, len(self.quantizers))
