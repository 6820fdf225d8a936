"""The architecture of a tokenizer, or of a VAE: everything except the weights."""

from pydantic import Field, model_validator

from imagetok.config import Section
from imagetok.images import ImageContract
from imagetok.networks import NetworkConfig, VQVAE2Config
from imagetok.networks.build import downsampling
from imagetok.quantizers import QuantizerConfig, level_name
from imagetok.tokenizers.gaussian_latent import LatentConfig
from imagetok.tokenizers.likelihood import LikelihoodConfig, MSEConfig


class TokenizerConfig(Section):
    """Image contract, network, quantizer or quantizers, and likelihood of a tokenizer or VAE.

    Exactly one of `quantizer`, `quantizers` and `latent` is set; the others are not in the config.
    """

    image: ImageContract
    """The image contract: size, channels and preprocessing."""
    network: NetworkConfig
    """The encoder and decoder, which determine the grid of codes."""
    quantizer: QuantizerConfig | None = Field(None, exclude_if=lambda value: value is None)
    """The quantizer of a network with one grid of codes."""
    quantizers: tuple[QuantizerConfig, ...] = Field((), exclude_if=lambda value: not value)
    """For a network with several grids: one quantizer per grid, coarse to fine."""
    latent: LatentConfig | None = Field(None, exclude_if=lambda value: value is None)
    """For a VAE, which has no codes: replaces the quantizer."""
    likelihood: LikelihoodConfig = MSEConfig()
    """The error of a reconstruction."""

    @model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        self._check_middle()
        factor = self._downsamplings[0]
        if self.image.height % factor or self.image.width % factor:
            raise ValueError(
                f"image height and width must be multiples of {factor}, the downsampling of the "
                f"network (found {self.image.height} x {self.image.width})"
            )
        if (self.image.mode == "labels") != (self.likelihood.kind == "vmf"):
            raise ValueError(
                "likelihood: label maps (image.mode labels) need 'vmf', pixels another; found "
                f"{self.likelihood.kind!r} with mode {self.image.mode}"
            )
        return self

    def _check_middle(self) -> None:
        kind, is_hierarchy = self.network.kind, isinstance(self.network, VQVAE2Config)
        given = [n for n in ("quantizer", "quantizers", "latent") if getattr(self, n)]
        found = " and ".join(f"`{name}`" for name in given) or "none"
        if is_hierarchy and (given != ["quantizers"] or len(self.quantizers) < 2):
            found = found if {"quantizer", "latent"} & {*given} else len(self.quantizers)
            raise ValueError(
                f"network {kind!r} has a grid of codes per level: set `quantizers`, a list of "
                f"two or more sections, coarse to fine, and no `quantizer` or `latent` (found "
                f"{found})"
            )
        if not is_hierarchy and given not in (["quantizer"], ["latent"]):
            raise ValueError(
                f"network {kind!r} has one grid of codes: set one section `quantizer` and no "
                f"`quantizers`, or, for a VAE, only `latent` (found {found})"
            )

    @property
    def levels(self) -> tuple[QuantizerConfig, ...]:
        """The quantizer of every grid, coarse to fine."""
        return self.quantizers if self.quantizer is None else (self.quantizer,)

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses besides the likelihood: `kl`, or `kl_level0`, ... per level."""
        if self.latent is not None:
            return self.latent.losses
        count = len(self.levels)
        return tuple(
            level_name(loss, level, count)
            for level, quantizer in enumerate(self.levels)
            for loss in quantizer.losses
        )

    @property
    def method(self) -> tuple[str, ...]:
        """Name of the method: the kind of the quantizer, or of the network and its quantizers."""
        if self.latent is not None:
            return ("vae",)
        kinds = [quantizer.kind for quantizer in self.levels]
        return tuple(dict.fromkeys([self.network.kind, *kinds] if self.quantizers else kinds))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of every grid of codes, coarse to fine."""
        return tuple((self.image.height // f, self.image.width // f) for f in self._downsamplings)

    @property
    def _downsamplings(self) -> tuple[int, ...]:
        if isinstance(self.network, VQVAE2Config):
            return self.network.downsamplings(len(self.quantizers))
        return (downsampling(self.network),)
