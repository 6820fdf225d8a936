"""Quantizers: encoder outputs to codes and back, behind one contract (`base.Quantizer`)."""

from typing import Annotated, assert_never

from pydantic import Field

from imagetok.quantizers.base import Codes, Quantized, Quantizer
from imagetok.quantizers.dvae import DVAEConfig, DVAEQuantizer
from imagetok.quantizers.edvae import EdVAEConfig, EdVAEQuantizer
from imagetok.quantizers.gsvq import GSVQConfig, GSVQQuantizer
from imagetok.quantizers.sqvae import SQVAEConfig, SQVAEQuantizer
from imagetok.quantizers.vmf import VMFSQVAEConfig, VMFSQVAEQuantizer
from imagetok.quantizers.vq import VQEMAConfig, VQEMAQuantizer

QuantizerConfig = Annotated[
    EdVAEConfig | DVAEConfig | VQEMAConfig | GSVQConfig | SQVAEConfig | VMFSQVAEConfig,
    Field(discriminator="kind"),
]


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that a config section describes, freshly initialised."""
    match config:
        case EdVAEConfig():
            return EdVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case DVAEConfig():
            return DVAEQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case VQEMAConfig():
            return VQEMAQuantizer(config.num_codes, config.code_dim, config.decay)
        case GSVQConfig():
            return GSVQQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case SQVAEConfig():
            return SQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case VMFSQVAEConfig():
            return VMFSQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case _:
            assert_never(config)


__all__ = [
    "Codes",
    "DVAEConfig",
    "EdVAEConfig",
    "GSVQConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "SQVAEConfig",
    "VMFSQVAEConfig",
    "VQEMAConfig",
    "build_quantizer",
]
