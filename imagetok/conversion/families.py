"""The families of tokenizers that can be converted, and the names of their tensors.

Names are brought to those of taming-transformers first, from which `vqgan.py` reads sizes and
takes tensors.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from imagetok.errors import ConfigError, InputError
from imagetok.quantizers.nearest import Distance
from imagetok.suggestions import did_you_mean, one_line, shown

FamilyName = Literal["llamagen", "taming", "diffusers", "amused", "janus", "chameleon", "emu3"]

Rename = tuple[str, str]
_TRANSFORMERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_TAMING_NAMES = r"(encoder|decoder)\.((down|up)\.\d|mid\.[a-z])"
_LLAMAGEN_NAMES = r"(encoder|decoder)\.(conv_blocks|mid)\.\d"
_DIFFUSERS_NAMES = r"(encoder|decoder)\.(down_blocks|up_blocks|mid_block)\."
_EMU3_NAMES = r"(encoder|decoder)\.(down_block|up_block|middle_block|time_conv|time_res_stack)\."


class Setting(NamedTuple):
    """A number that shapes do not tell, but the family's config.json does."""

    key: str
    """Its key; empty where the family's configs do not state it."""
    usual: int
    """What is assumed where no config says it."""
    what: str
    """What it counts."""


_GROUPS = Setting("", 32, "groups of each group norm")


class Family(NamedTuple):
    """How a family's weights are named, and what their shapes do not tell."""

    title: str
    """Name for the model card, with the publication."""
    files: tuple[str, ...]
    """The files that published weights usually are, in order of preference."""
    layers: str = _TAMING_NAMES
    """Pattern at the beginning of the names of its layers, by which weights are told apart."""
    config: tuple[str, str] | None = None
    """A key of its config.json, and how the value begins."""
    setting: Setting = _GROUPS
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
    assumed: str = ""
    """What its files do not tell and is assumed, as a sentence for the model card."""
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
    for key, value in wanted.items():
        if config.get(key, value) != value:
            return f"{key} {shown(config[key])}"
    for key, kind in (("down_block_types", "DownEncoder"), ("up_block_types", "UpDecoder")):
        known = (f"{kind}Block2D", f"Attn{kind}Block2D")
        blocks = config.get(key, [])
        if not isinstance(blocks, list) or any(block not in known for block in blocks):
            return f"{key} {shown(blocks)}"
    return None


_VQMODEL = "_class_name", "VQModel"
_OTHER_RANGE = "the files do not tell; aMUSEd's are in [0, 1] (--from amused), others' in [-1, 1]"
FAMILIES: dict[FamilyName, Family] = {
    "llamagen": Family(
        "LlamaGen (Sun et al. 2024)",
        ("vq_ds16_c2i.pt", "vq_ds8_c2i.pt", "vq_ds16_t2i.pt"),
        layers=_LLAMAGEN_NAMES,
        renames=_LLAMAGEN,
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
        layers=_DIFFUSERS_NAMES,
        config=_VQMODEL,
        setting=_GROUPS._replace(key="norm_num_groups"),
        renames=_DIFFUSERS,
        coarse_first=True,
        interpolation="bilinear",
        assumed=f"Pixels are assumed to be in [-1, 1] inside the network: {_OTHER_RANGE}.",
        check=_beyond_vqgan,
    ),
    "amused": Family(
        "aMUSEd (Patil et al. 2024)",
        (
            "vqvae/diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors",
        ),
        layers=_DIFFUSERS_NAMES,
        config=_VQMODEL,
        setting=_GROUPS._replace(key="norm_num_groups"),
        renames=_DIFFUSERS,
        coarse_first=True,
        pixel_range="unit",
        interpolation="bilinear",
        assumed=(
            f"Pixels are assumed to be in [0, 1] inside the network: {_OTHER_RANGE} "
            "(--from diffusers)."
        ),
        check=_beyond_vqgan,
    ),
    "janus": Family(
        "Janus (Wu et al. 2024), in transformers",
        _TRANSFORMERS,
        config=("model_type", "janus"),
        coarse_first=True,
        distance="cosine",
        part="vqmodel.",
        size=384,
        unlike="; transformers' class leaves the features as they are, and gives other codes",
    ),
    "chameleon": Family(
        "Chameleon (Chameleon Team 2024), in transformers",
        _TRANSFORMERS,
        config=("model_type", "chameleon"),
        encode_only=True,
        unused=("post_quant_conv.",),
        part="vqmodel.",
        size=512,
    ),
    "emu3": Family(
        "Emu3 (Wang et al. 2024), in transformers",
        _TRANSFORMERS,
        layers=_EMU3_NAMES,
        config=("model_type", "emu3"),
        setting=Setting("num_attention_heads", 1, "heads of attention"),
        part="vqmodel.",
        size=512,
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


def check_config(family: Family, config: Mapping[str, Any], where: str) -> None:
    """Raise InputError for the config.json of another family, or of a network that none holds."""
    owners = [f for f in FAMILIES.values() if _is_config_of(f, config)]
    if owners and family not in owners:
        key, _ = owners[0].config or ("", "")
        raise InputError(
            f"{where}: expected the weights of {family.title}, found a config.json with {key} "
            f"{shown(config[key])}; use --from {_names(owners)}"
        )
    if beyond := family.check(config):
        raise InputError(f"{where}: its config has {beyond}, which the network does not hold")


def check_layers(family: Family, names: Iterable[str], where: str) -> None:
    """Raise InputError for tensors with the names that another family's layers have."""
    for name in names:
        owners = [f for f in FAMILIES.values() if re.match(f.layers, name)]
        if owners and family not in owners:
            raise InputError(
                f"{where}: expected the tensors of {family.title}, found {one_line(name, 80)}, a "
                f"name in {_names(owners)}; if that is its family, use --from {_names(owners)}"
            )


def families_like(family: Family) -> str:
    """Return the families whose layers have names like those of this one: `taming or janus`."""
    return _names([f for f in FAMILIES.values() if f.layers == family.layers])


def setting_of(family: Family, config: Mapping[str, Any], where: str) -> int | None:
    """Return what a config.json says about the family's setting; None if nothing.

    Raises InputError for anything but a whole number.
    """
    if family.setting.key not in config:
        return None
    value = config[family.setting.key]
    if type(value) is not int or not 1 <= value < 2**31:
        raise InputError(
            f"{where}: expected a whole number as {family.setting.key} in its config.json, found "
            f"{shown(value)}"
        )
    return value


def canonical_names(family: Family, names: Iterable[str], where: str) -> dict[str, str]:
    """Return the name of every tensor in taming-transformers -> its own name.

    names: the tokenizer's tensors, without the prefix of a larger model. Raises InputError for two
    tensors with one name.
    """
    renamed = {name: _renamed(family, name) for name in names}
    if family.coarse_first:
        renamed = _fine_first(renamed)
    found: dict[str, str] = {}
    for own, name in renamed.items():
        if name in found:
            raise InputError(
                f"{where}: expected one tensor for {one_line(name, 80)}, found two, "
                f"{one_line(found[name], 80)} and {one_line(own, 80)}; remove one of them"
            )
        found[name] = own
    return found


def _is_config_of(family: Family, config: Mapping[str, Any]) -> bool:
    if family.config is None:
        return False
    key, beginning = family.config
    return str(config.get(key, "")).startswith(beginning)


def _names(families: Iterable[Family]) -> str:
    return " or ".join(name for name, family in FAMILIES.items() if family in families)


def _renamed(family: Family, name: str) -> str:
    for pattern, replacement in family.renames:
        name = re.sub(rf"\A{pattern}", replacement, name)
    return name


def _fine_first(names: Mapping[str, str]) -> dict[str, str]:
    """Count the levels of the decoder from the finest one."""
    up = re.compile(r"\Adecoder\.up\.(\d{1,3})\.", re.ASCII)
    last = max((int(m[1]) for m in map(up.match, names.values()) if m), default=0)
    return {
        own: up.sub(lambda m: f"decoder.up.{last - int(m[1])}.", name)
        for own, name in names.items()
    }
