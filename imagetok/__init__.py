"""imagetok: images to codes, codes to datasets, datasets to priors, priors to images.

The names below are the public API; they are imported when first used, so that the command line
starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.codes.reader import CodeDataset, open_codes
    from imagetok.config import load_config
    from imagetok.data import open_images, parse_spec
    from imagetok.errors import ImagetokError
    from imagetok.images import ImageContract
    from imagetok.named_configs import configs
    from imagetok.quantizers import Codes, Quantizer
    from imagetok.tokenizers import Autoencoder, Tokenizer, TokenizerConfig, build_tokenizer

_HOMES = {
    "Autoencoder": "imagetok.tokenizers",
    "CodeDataset": "imagetok.codes.reader",
    "Codes": "imagetok.quantizers",
    "ImageContract": "imagetok.images",
    "ImagetokError": "imagetok.errors",
    "Quantizer": "imagetok.quantizers",
    "Tokenizer": "imagetok.tokenizers",
    "TokenizerConfig": "imagetok.tokenizers",
    "build_tokenizer": "imagetok.tokenizers",
    "configs": "imagetok.named_configs",
    "load_config": "imagetok.config",
    "open_codes": "imagetok.codes.reader",
    "open_images": "imagetok.data",
    "parse_spec": "imagetok.data",
}

__all__ = [
    "Autoencoder",
    "CodeDataset",
    "Codes",
    "ImageContract",
    "ImagetokError",
    "Quantizer",
    "Tokenizer",
    "TokenizerConfig",
    "build_tokenizer",
    "configs",
    "load_config",
    "open_codes",
    "open_images",
    "parse_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imagetok' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
