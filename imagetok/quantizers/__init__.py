"""Quantizers, which map encoder outputs to codes and back; all implement `base.Quantizer`."""

from imagetok.quantizers.base import (
    Codes,
    Quantized,
    Quantizer,
    QuantizerSection,
    is_concatenated,
    level_name,
)
from imagetok.quantizers.build import QuantizerConfig, build_quantizer
from imagetok.quantizers.dvae import DVAEConfig
from imagetok.quantizers.edvae import EdVAEConfig
from imagetok.quantizers.external import (
    FSQConfig,
    LFQConfig,
    ResidualVQConfig,
    RotationVQConfig,
    SimVQConfig,
)
from imagetok.quantizers.gsvq import GSVQConfig
from imagetok.quantizers.ibq import IBQConfig
from imagetok.quantizers.kernel import KernelQuantizer
from imagetok.quantizers.sqvae import SQVAEConfig
from imagetok.quantizers.usage import CodebookUse, code_counts, codebook_use
from imagetok.quantizers.vmf import VMFSQVAEConfig
from imagetok.quantizers.vq import VQConfig, VQEMAConfig
from imagetok.quantizers.vqste import VQSTEConfig

__all__ = [
    "CodebookUse",
    "Codes",
    "DVAEConfig",
    "EdVAEConfig",
    "FSQConfig",
    "GSVQConfig",
    "IBQConfig",
    "KernelQuantizer",
    "LFQConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerSection",
    "ResidualVQConfig",
    "RotationVQConfig",
    "SQVAEConfig",
    "SimVQConfig",
    "VMFSQVAEConfig",
    "VQConfig",
    "VQEMAConfig",
    "VQSTEConfig",
    "build_quantizer",
    "code_counts",
    "codebook_use",
    "is_concatenated",
    "level_name",
]
