"""imagetok: discrete image tokenizers, code datasets, and priors that generate images from codes.

The names in `__all__` are the public API; they are imported when first used, so that the command
line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagetok.analysis.diagnosis import diagnose
    from imagetok.analysis.latent_space import explore
    from imagetok.analysis.reconstruction import reconstruct
    from imagetok.analysis.report import report
    from imagetok.analysis.starting_config import init
    from imagetok.analysis.uncertainty import uncertainty
    from imagetok.codes.decode import decode
    from imagetok.codes.encode import encode
    from imagetok.codes.interchange.export import export
    from imagetok.codes.interchange.import_ import import_codes
    from imagetok.codes.merge import merge
    from imagetok.codes.reader import CodeDataset, open_codes
    from imagetok.comparison.from_configs import compare
    from imagetok.config import load_config
    from imagetok.conversion import convert
    from imagetok.data import open_images, parse_spec
    from imagetok.environment import info
    from imagetok.errors import ImagetokError
    from imagetok.evaluation.evaluate import evaluate
    from imagetok.images import ImageContract
    from imagetok.inspection import inspect
    from imagetok.named_configs import configs
    from imagetok.plugins.loading import load_plugin
    from imagetok.plugins.registry import register
    from imagetok.quantizers import Codes, Quantizer
    from imagetok.tokenizers import Autoencoder, Tokenizer, TokenizerConfig, build_tokenizer
    from imagetok.training.trained import train
    from imagetok.verification import push, verify
    from imagetok.version import __version__

_HOMES = {
    "Autoencoder": "imagetok.tokenizers",
    "CodeDataset": "imagetok.codes.reader",
    "Codes": "imagetok.quantizers",
    "ImageContract": "imagetok.images",
    "ImagetokError": "imagetok.errors",
    "Quantizer": "imagetok.quantizers",
    "Tokenizer": "imagetok.tokenizers",
    "TokenizerConfig": "imagetok.tokenizers",
    "__version__": "imagetok.version",
    "build_tokenizer": "imagetok.tokenizers",
    "compare": "imagetok.comparison.from_configs",
    "configs": "imagetok.named_configs",
    "convert": "imagetok.conversion",
    "decode": "imagetok.codes.decode",
    "diagnose": "imagetok.analysis.diagnosis",
    "encode": "imagetok.codes.encode",
    "evaluate": "imagetok.evaluation.evaluate",
    "explore": "imagetok.analysis.latent_space",
    "export": "imagetok.codes.interchange.export",
    "import_codes": "imagetok.codes.interchange.import_",
    "info": "imagetok.environment",
    "init": "imagetok.analysis.starting_config",
    "inspect": "imagetok.inspection",
    "load_config": "imagetok.config",
    "load_plugin": "imagetok.plugins.loading",
    "merge": "imagetok.codes.merge",
    "open_codes": "imagetok.codes.reader",
    "open_images": "imagetok.data",
    "parse_spec": "imagetok.data",
    "push": "imagetok.verification",
    "reconstruct": "imagetok.analysis.reconstruction",
    "register": "imagetok.plugins.registry",
    "report": "imagetok.analysis.report",
    "train": "imagetok.training.trained",
    "uncertainty": "imagetok.analysis.uncertainty",
    "verify": "imagetok.verification",
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
    "__version__",
    "build_tokenizer",
    "compare",
    "configs",
    "convert",
    "decode",
    "diagnose",
    "encode",
    "evaluate",
    "explore",
    "export",
    "import_codes",
    "info",
    "init",
    "inspect",
    "load_config",
    "load_plugin",
    "merge",
    "open_codes",
    "open_images",
    "parse_spec",
    "push",
    "reconstruct",
    "register",
    "report",
    "train",
    "uncertainty",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imagetok' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
