"""A variational autoencoder (VAE): the continuous baseline, without codes."""

from collections.abc import Mapping
from typing import ClassVar, NoReturn

import torch
from torch import Tensor, nn

from imagetok import artifacts
from imagetok.errors import InputError
from imagetok.eval_mode import eval_mode
from imagetok.images import Images
from imagetok.networks import VQVAE2Config, build_network
from imagetok.tokenizers.base import Autoencoder, Part, Reconstruction
from imagetok.tokenizers.config import TokenizerConfig
from imagetok.tokenizers.deferred_checks import check_features
from imagetok.tokenizers.gaussian_latent import GaussianLatent, gaussian_kl
from imagetok.tokenizers.likelihood import build_likelihood

_NO_CODES = (
    "a VAE is continuous and has no codes; use reconstruct(), or train a tokenizer: a config with "
    "tokenizer.quantizer, such as digits/edvae"
)


class VAE(Autoencoder):
    """A VAE with a Gaussian latent, sampled in training and replaced by its mean in eval mode."""

    prefixes: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "decoder": ("decoder", "latent.to_features", "likelihood"),
    }

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.image = config.image
        assert config.latent is not None and not isinstance(config.network, VQVAE2Config)
        (grid,) = config.grids
        self.latent = GaussianLatent(config.latent.dim, config.latent.per, grid)
        self.likelihood = build_likelihood(config.likelihood, config.image, config.network.pixels)
        self.encoder, self.decoder = build_network(
            config.network,
            self.likelihood.channels,
            self.latent.in_channels,
            config.latent.dim,
            num_heads=self.latent.num_heads,
            is_bounded=self.likelihood.is_linear,
            size=(config.image.height, config.image.width),
        )

    def forward(
        self,
        images: Images,
        *,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        del temperature  # there is no relaxation
        posterior = self.latent.posterior(self.encoder(self.likelihood.to_network(images)))
        out = self.decoder(self.latent(self.latent.draw(posterior, generator)))
        losses = {
            "reconstruction": self.likelihood.loss(out, images),
            "kl": gaussian_kl(posterior),
        }
        return Reconstruction(self.likelihood.to_image(out), losses, (), {})

    def networks(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    def reconstruct(self, images: Tensor, *, generator: torch.Generator | None = None) -> Images:
        del generator  # there is no noise
        images = self._checked(images)
        with eval_mode(self), torch.no_grad():
            h = self.encoder(self.likelihood.to_network(images))
            check_features(h)
            return self.likelihood.to_image(
                self.decoder(self.latent(self.latent.posterior(h).mean))
            )

    def _usage(self) -> list[str]:
        image = self.image
        size = f"{image.height} x {image.width}"
        return [
            f"A variational autoencoder for images ({image.mode}) of {size}, in the format of "
            "imagetok. It has no codes; it is a baseline for tokenizers.",
            "",
            "```python",
            "from imagetok import Autoencoder",
            f'autoencoder = Autoencoder.from_pretrained("{artifacts.HERE}")',
            "x_hat = autoencoder.reconstruct(images)",
            "```",
        ]

    def encode(self, *_: object, **__: object) -> NoReturn:
        """Refuse: there are no codes."""
        raise InputError(_NO_CODES)

    def decode(self, *_: object, **__: object) -> NoReturn:
        """Refuse: there are no codes."""
        raise InputError(_NO_CODES)
