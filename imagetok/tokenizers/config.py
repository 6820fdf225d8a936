"""The architecture of a tokenizer: everything but its weights, and what codes are bound to."""

from pydantic import model_validator

from imagetok.config import Section
from imagetok.images import ImageContract
from imagetok.networks import NetworkConfig
from imagetok.quantizers import QuantizerConfig
from imagetok.tokenizers.likelihood import LikelihoodConfig, MSEConfig


class TokenizerConfig(Section):
    """Image contract, network, quantizer and likelihood of one tokenizer."""

    image: ImageContract
    network: NetworkConfig
    quantizer: QuantizerConfig
    likelihood: LikelihoodConfig = MSEConfig()

    @model_validator(mode="after")
    def _check(self) -> "TokenizerConfig":
        factor = self.network.downsampling
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

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the code map."""
        factor = self.network.downsampling
        return self.image.height // factor, self.image.width // factor
