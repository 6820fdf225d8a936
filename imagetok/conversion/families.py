"""The families of tokenizers that can be converted, and the names of their tensors.

Names are brought to those of taming-transformers first, from which `vqgan.py` reads sizes and
takes tensors.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from imagetok.errors import ConfigError
from imagetok.quantizers.nearest import Distance
from imagetok.suggestions import did_you_mean

FamilyName = Literal["llamagen", "taming", "diffusers", "amused", "janus", "chameleon", "emu3"]

Rename = tuple[str, str]
_TRANSFORMERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class Family(NamedTuple):
    """How a family's weights are named, and what their shapes do not tell."""

    title: str
    """Name for the model card, with the publication."""
    files: tuple[str, ...]
    """The files that published weights usually are, in order of preference."""
    renames: tuple[Rename, ...] = ()
    """Patterns at the beginning of names, and what they are in taming-transformers."""
    coarse_first: bool = False
    """Whether `up.0` of the decoder is the coarsest level."""
    distance: Distance = "euclidean"
    """By which their authors choose the nearest code."""
    pixel_range: Literal["symmetric", "unit"] = "symmetric"
    encode_only: bool = False
    """Whether the published class has no decoder."""
    unused: tuple[str, ...] = ()
    """Beginnings of names of tensors that neither encoding nor decoding needs."""
    part: str = ""
    """Text in the names of the tokenizer's tensors in a larger model."""
    size: int = 256
    """Side of the images that most published weights were trained on."""
    resize: Literal["cover", "adm"] = "cover"
    """How their authors bring a picture to that size; see `ImageContract`."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    unlike: str = ""
    """How the published class compares features and codes, if not as its authors do."""
    check: Callable[[Mapping[str, Any]], str | None] = lambda config: None
    """Returns what a config.json says that the network does not hold, if anything."""


_NORMS = (
    (r"(encoder|decoder)\.conv_norm_out\.", r"\1.norm_out."),
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.mid.attn_1."),
)
_DIFFUSERS = (
    *_NORMS,
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block."),
    (r"encoder\.down_blocks\.(\d+)\.attentions\.", r"encoder.down.\1.attn."),
    (r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample."),
    (r"decoder\.up_blocks\.(\d+)\.resnets\.", r"decoder.up.\1.block."),
    (r"decoder\.up_blocks\.(\d+)\.attentions\.", r"decoder.up.\1.attn."),
    (r"(.*)\.conv_shortcut\.", r"\1.nin_shortcut."),
    (r"(.*\.attn(?:_1|\.\d+))\.group_norm\.", r"\1.norm."),
    (r"(.*\.attn(?:_1|\.\d+))\.(?:to_q|query)\.", r"\1.q."),
    (r"(.*\.attn(?:_1|\.\d+))\.(?:to_k|key)\.", r"\1.k."),
    (r"(.*\.attn(?:_1|\.\d+))\.(?:to_v|value)\.", r"\1.v."),
    (r"(.*\.attn(?:_1|\.\d+))\.(?:to_out\.0|proj_attn)\.", r"\1.proj_out."),
)
_LLAMAGEN = (
    (r"encoder\.conv_blocks\.(\d+)\.res\.", r"encoder.down.\1.block."),
    (r"encoder\.conv_blocks\.(\d+)\.", r"encoder.down.\1."),
    (r"decoder\.conv_blocks\.(\d+)\.res\.", r"decoder.up.\1.block."),
    (r"decoder\.conv_blocks\.(\d+)\.", r"decoder.up.\1."),
    (r"(encoder|decoder)\.mid\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid\.1\.", r"\1.mid.attn_1."),
    (r"(encoder|decoder)\.mid\.2\.", r"\1.mid.block_2."),
)


def _beyond_vqgan(config: Mapping[str, Any]) -> str | None:
    """Return what a config of diffusers says that the network `vqgan` does not hold."""
    wanted = {"norm_type": "group", "act_fn": "silu"}
    found = (f"{k} {config[k]!r}" for k, v in wanted.items() if config.get(k, v) != v)
    blocks = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
    known = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D"}
    known |= {"UpDecoderBlock2D", "AttnUpDecoderBlock2D"}
    return next(found, None) or next((f"blocks {b!r}" for b in sorted(blocks - known)), None)


FAMILIES: dict[FamilyName, Family] = {
    "llamagen": Family(
        "LlamaGen (Sun et al. 2024)",
        ("vq_ds16_c2i.pt", "vq_ds8_c2i.pt", "vq_ds16_t2i.pt"),
        _LLAMAGEN,
        coarse_first=True,
        distance="cosine",
        unused=("quantize.codebook_used",),
        part="gen_vision_model.",
        resize="adm",
    ),
    "taming": Family(
        "taming-transformers (Esser et al. 2021)",
        ("last.ckpt", "model.ckpt"),
        unused=("loss.",),
        interpolation="bilinear",
    ),
    "diffusers": Family(
        "a VQModel of diffusers",
        (
            "diffusion_pytorch_model.safetensors",
            "vqvae/diffusion_pytorch_model.safetensors",
            "vqvae/diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.bin",
        ),
        _DIFFUSERS,
        coarse_first=True,
        interpolation="bilinear",
        check=_beyond_vqgan,
    ),
    "amused": Family(
        "aMUSEd (Patil et al. 2024)",
        (
            "vqvae/diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors",
        ),
        _DIFFUSERS,
        coarse_first=True,
        pixel_range="unit",
        interpolation="bilinear",
        check=_beyond_vqgan,
    ),
    "janus": Family(
        "Janus (Wu et al. 2024), in transformers",
        _TRANSFORMERS,
        coarse_first=True,
        distance="cosine",
        part="vqmodel.",
        size=384,
        unlike="; transformers' class leaves the features as they are, and gives other codes",
    ),
    "chameleon": Family(
        "Chameleon (Chameleon Team 2024), in transformers",
        _TRANSFORMERS,
        encode_only=True,
        unused=("post_quant_conv.",),
        part="vqmodel.",
        size=512,
    ),
    "emu3": Family(
        "Emu3 (Wang et al. 2024), in transformers", _TRANSFORMERS, part="vqmodel.", size=512
    ),
}


def find_family(name: str) -> Family:
    """Return a family by its name; ConfigError for an unknown one."""
    for known, family in FAMILIES.items():
        if known == name:
            return family
    raise ConfigError(
        f"family: expected one of {', '.join(get_args(FamilyName))}, found {name!r}"
        f"{did_you_mean(name, FAMILIES)}"
    )


def canonical_names(family: Family, names: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of every tensor in taming-transformers -> its own name.

    names: the tokenizer's tensors, without the prefix of a larger model.
    """
    found = {}
    for name in names:
        renamed = name
        for pattern, replacement in family.renames:
            renamed = re.sub(rf"\A{pattern}", replacement, renamed)
        found[renamed] = name
    return _fine_first(found) if family.coarse_first else found


def _fine_first(names: dict[str, str]) -> dict[str, str]:
    """Count the levels of the decoder from the finest one."""
    up = re.compile(r"\Adecoder\.up\.(\d+)\.")
    last = max((int(m[1]) for m in map(up.match, names) if m), default=0)
    return {
        up.sub(lambda m: f"decoder.up.{last - int(m[1])}.", canonical): own
        for canonical, own in names.items()
    }
