"""The network `emu3` and its codebook from the tensors of transformers' `Emu3VQVAE`."""

from typing import Any

from torch import nn

from imagetok.conversion.families import Family
from imagetok.conversion.vqgan import (
    CODEBOOK,
    FIRST,
    Shapes,
    count,
    image_contract,
    multiples,
    shape_of,
)


def architecture_of(
    family: Family, shapes: Shapes, heads: int, size: tuple[int, int], where: str
) -> dict[str, Any]:
    """Return the architecture that the shapes of tensors tell; see `vqgan.architecture_of`."""
    width, image_channels, *_ = shape_of(shapes, FIRST, where)
    down = r"encoder\.down_block\.down\."
    levels = count(rf"{down}(\d{{1,3}})\.", shapes)
    channels = [
        shape_of(shapes, f"encoder.down_block.down.{level}.block.0.conv1.weight", where)[0]
        for level in range(levels)
    ]
    codes, features = shape_of(shapes, CODEBOOK, where, dimensions=2)
    network = {
        "kind": "emu3",
        "width": width,
        "multipliers": multiples(channels, width, where),
        "blocks": count(rf"{down}0\.block\.(\d{{1,3}})\.", shapes),
        "attention": [
            2**level
            for level in range(levels)
            if count(rf"{down}{level}\.attn\.(\d{{1,3}})\.", shapes)
        ],
        "latent_channels": shape_of(shapes, "encoder.conv_out.weight", where)[0],
        "frames": 2 ** count(r"encoder\.time_conv\.(\d{1,3})\.", shapes),
        "heads": heads,
    }
    quantizer = {"kind": "vqvae", "num_codes": codes, "code_dim": features}
    return {
        "image": image_contract(family, image_channels, size),
        "network": network,
        "quantizer": quantizer,
    }


def wanted_names(tokenizer: nn.Module) -> dict[str, str]:
    """Return the name in transformers of every tensor of a tokenizer, by our name."""
    ours = {name: name.partition(".")[2] for name in tokenizer.state_dict()}
    return {name: theirs for name, theirs in ours.items() if name != "quantizer.codebook"} | {
        "quantizer.codebook": CODEBOOK
    }
