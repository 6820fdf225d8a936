"""Quantizers: encoder outputs to codes and back, behind one contract (`base.Quantizer`)."""

from typing import Annotated, assert_never

from pydantic import Field

from imagetok.quantizers.base import Codes, Quantized, Quantizer, level_name
from imagetok.quantizers.dvae import DVAEConfig, DVAEQuantizer
from imagetok.quantizers.edvae import EdVAEConfig, EdVAEQuantizer
from imagetok.quantizers.gsvq import GSVQConfig, GSVQQuantizer
from imagetok.quantizers.renewal import Renewal, build_reset
from imagetok.quantizers.sqvae import SQVAEConfig, SQVAEQuantizer
from imagetok.quantizers.vmf import VMFSQVAEConfig, VMFSQVAEQuantizer
from imagetok.quantizers.vq import VQConfig, VQEMAConfig, VQEMAQuantizer, VQQuantizer
from imagetok.quantizers.vqste import Affine, Alternation, VQSTEConfig, VQSTEQuantizer

QuantizerConfig = Annotated[
    EdVAEConfig
    | DVAEConfig
    | VQConfig
    | VQEMAConfig
    | VQSTEConfig
    | GSVQConfig
    | SQVAEConfig
    | VMFSQVAEConfig,
    Field(discriminator="kind"),
]


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """The quantizer that a config section describes, freshly initialised."""
    match config:
        case EdVAEConfig():
            return EdVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case DVAEConfig():
            return DVAEQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case VQConfig():
            return VQQuantizer(config.num_codes, config.code_dim, _build_renewal(config))
        case VQEMAConfig():
            return VQEMAQuantizer(
                config.num_codes, config.code_dim, config.decay, _build_renewal(config)
            )
        case VQSTEConfig():
            affine, alternation = config.affine, config.alternation
            size = config.num_codes, config.code_dim
            return VQSTEQuantizer(
                *size,
                config.beta,
                affine and Affine(config.code_dim, affine.rate, affine.groups),
                config.synchronisation,
                alternation and Alternation(*size, **alternation.model_dump()),
                _build_renewal(config),
            )
        case GSVQConfig():
            return GSVQQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case SQVAEConfig():
            return SQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case VMFSQVAEConfig():
            return VMFSQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case _:
            assert_never(config)


def _build_renewal(config: VQConfig | VQEMAConfig | VQSTEConfig) -> Renewal:
    return Renewal(config.num_codes, config.init, build_reset(config.reset, config.num_codes))


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
    "VQConfig",
    "VQEMAConfig",
    "VQSTEConfig",
    "build_quantizer",
    "level_name",
]
