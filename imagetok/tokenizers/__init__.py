"""Tokenizers: autoencoders whose middle is a tuple of code maps; and the VAE, which has none."""

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
