"""Building a quantizer from a config section, for included and registered quantizers."""

from typing import Annotated, assert_never

from imagetok.plugins.sections import (
    OrRegistered,
    build_registered,
    described,
    registration_of,
)
from imagetok.quantizers.base import Quantizer, QuantizerSection
from imagetok.quantizers.codebook_init_reset import CodebookInitReset, build_reset
from imagetok.quantizers.dvae import DVAEConfig, DVAEQuantizer
from imagetok.quantizers.edvae import EdVAEConfig, EdVAEQuantizer
from imagetok.quantizers.external import (
    FSQConfig,
    LFQConfig,
    ResidualVQConfig,
    RotationVQConfig,
    SimVQConfig,
    build_external,
)
from imagetok.quantizers.gsvq import GSVQConfig, GSVQQuantizer
from imagetok.quantizers.ibq import IBQConfig, IBQQuantizer
from imagetok.quantizers.probe import check_built
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
    | IBQConfig
    | GSVQConfig
    | SQVAEConfig
    | VMFSQVAEConfig
    | FSQConfig
    | LFQConfig
    | ResidualVQConfig
    | SimVQConfig
    | RotationVQConfig
    | QuantizerSection,
    OrRegistered(QuantizerSection),
]
"""The section of any quantizer, included or registered."""


def build_quantizer(config: QuantizerConfig) -> Quantizer:
    """Build the newly initialised quantizer of a config section."""
    match config:
        case EdVAEConfig():
            return EdVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case DVAEConfig():
            return DVAEQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case VQConfig() | VQEMAConfig() | VQSTEConfig():
            return _build_nearest(config)
        case IBQConfig():
            return IBQQuantizer(config.num_codes, config.code_dim, config.entropy_temperature)
        case GSVQConfig():
            return GSVQQuantizer(config.num_codes, config.code_dim, config.test_rule)
        case SQVAEConfig():
            return SQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case VMFSQVAEConfig():
            return VMFSQVAEQuantizer(**config.model_dump(exclude={"kind"}))
        case FSQConfig() | LFQConfig() | ResidualVQConfig() | SimVQConfig() | RotationVQConfig():
            return build_external(config)
        case QuantizerSection():
            return _build_registered(config)
        case _:
            assert_never(config)


def _build_registered(config: QuantizerSection) -> Quantizer:
    quantizer = build_registered(config, Quantizer, config)
    check_built(quantizer, config.losses, described(registration_of(config)))
    return quantizer


def _build_nearest(config: VQConfig | VQEMAConfig | VQSTEConfig) -> Quantizer:
    size = config.num_codes, config.code_dim
    renewal = CodebookInitReset(
        config.num_codes, config.init, build_reset(config.reset, config.num_codes)
    )
    match config:
        case VQConfig():
            compared = config.distance, config.entropy_temperature
            return VQQuantizer(*size, renewal, config.error, *compared)
        case VQEMAConfig():
            compared = config.distance, config.entropy_temperature
            return VQEMAQuantizer(*size, config.decay, config.averages, renewal, *compared)
        case VQSTEConfig():
            affine, alternation = config.affine, config.alternation
            return VQSTEQuantizer(
                *size,
                config.beta,
                affine and Affine(config.code_dim, affine.rate, affine.groups),
                config.synchronisation,
                alternation and Alternation(*size, **alternation.model_dump()),
                renewal,
            )
        case _:
            assert_never(config)
