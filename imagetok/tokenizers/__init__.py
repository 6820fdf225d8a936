"""Tokenizers: autoencoders with discrete codes; and the VAE, a continuous baseline."""

from imagetok.tokenizers.base import Autoencoder, Reconstruction, Tokenizer
from imagetok.tokenizers.build import build_autoencoder, build_tokenizer
from imagetok.tokenizers.config import TokenizerConfig

__all__ = [
    "Autoencoder",
    "Reconstruction",
    "Tokenizer",
    "TokenizerConfig",
    "build_autoencoder",
    "build_tokenizer",
]
