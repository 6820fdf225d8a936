"""Quantizers: encoder outputs to codes and back, behind one contract (`base.Quantizer`)."""

from typing import Annotated, assert_never

from pydantic import Field

from imagetok.quantizers.base import Codes, Quantized, Quantizer, level_name
from imagetok.quantizers.dvae import DVAEConfig, DVAEQuantizer
from imagetok.quantizers.edvae import EdVAEConfig, EdVAEQuantizer
from imagetok.quantizers.vq import VQEMAConfig, VQEMAQuantizer

QuantizerConfig = Annotated[EdVAEConfig | DVAEConfig | VQEMAConfig, Field(discriminator="kind")]


def build_quantizer(config: EdVAEConfig | DVAEConfig | VQEMAConfig) -> Quantizer:
    """The quantizer that a config section describes, freshly initialised."""
    match config:
        case EdVAEConfig():
            return EdVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case DVAEConfig():
            return DVAEQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case VQEMAConfig():
            return VQEMAQuantizer(config.num_codes, config.code_dim, config.decay)
        case _:
            assert_never(config)


__all__ = [
    "Codes",
    "DVAEConfig",
    "EdVAEConfig",
    "Quantized",
    "Quantizer",
    "QuantizerConfig",
    "VQEMAConfig",
    "build_quantizer",
    "level_name",
]
