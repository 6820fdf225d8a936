"""The network `vqgan` and a codebook from the tensors of another program."""

import re
from collections.abc import Mapping
from typing import Any

from imagetok.conversion.families import Family
from imagetok.conversion.layer_names import decoder_names, encoder_names, tensor_names
from imagetok.errors import InputError
from imagetok.suggestions import one_line

CODEBOOK = "quantize.embedding.weight"
FIRST = "encoder.conv_in.weight"
Shapes = Mapping[str, tuple[int, ...]]


def architecture_of(
    family: Family, shapes: Shapes, groups: int, size: tuple[int, int], where: str
) -> dict[str, Any]:
    """Return the architecture that the shapes of tensors tell.

    shapes: by the names of taming-transformers. groups: of each group norm. size: (H, W). Raises
    InputError for shapes of another network.
    """
    width, image_channels, *_ = shape_of(shapes, FIRST, where)
    levels = count(r"encoder\.down\.(\d{1,3})\.", shapes)
    channels = [
        shape_of(shapes, f"encoder.down.{level}.block.0.conv1.weight", where)[0]
        for level in range(levels)
    ]
    attention = [2**n for n in range(levels) if f"encoder.down.{n}.attn.0.norm.weight" in shapes]
    codes, features = shape_of(shapes, CODEBOOK, where, dimensions=2)
    network = {
        "kind": "vqgan",
        "width": width,
        "multipliers": multiples(channels, width, where),
        "blocks": count(r"encoder\.down\.0\.block\.(\d{1,3})\.", shapes),
        "attention": None if attention == [2 ** (levels - 1)] else attention,
        "middle_attention": "encoder.mid.attn_1.norm.weight" in shapes,
        "latent_channels": shape_of(shapes, "encoder.conv_out.weight", where)[0],
        "norm_groups": groups,
        "pixel_range": family.pixel_range,
        "encode_only": family.encode_only,
    }
    return {
        "image": image_contract(family, image_channels, size),
        "network": network,
        "quantizer": {
            "kind": "vqvae",
            "num_codes": codes,
            "code_dim": features,
            "distance": family.distance,
        },
    }


def image_contract(family: Family, channels: int, size: tuple[int, int]) -> dict[str, Any]:
    """Return the image contract of a converted tokenizer."""
    return {
        "mode": "grey" if channels == 1 else "rgb",
        "height": size[0],
        "width": size[1],
        "resize": family.resize if size[0] == size[1] else "cover",
        "interpolation": family.interpolation,
    }


def wanted_names(tokenizer: Any) -> dict[str, str]:
    """Return the name in taming-transformers of every tensor of a tokenizer, by our name."""
    network = tokenizer.config.network
    found = tensor_names(tokenizer.encoder, encoder_names(network))
    names = {f"encoder.{ours}": theirs for ours, theirs in found.items()}
    if not network.encode_only:
        found = tensor_names(tokenizer.decoder, decoder_names(network))
        names |= {f"decoder.{ours}": theirs for ours, theirs in found.items()}
    return names | {"quantizer.codebook": CODEBOOK}


def count(pattern: str, names: Shapes) -> int:
    """Return the number of levels or blocks whose numbers names begin with."""
    found = (re.match(pattern, name, re.ASCII) for name in names)
    return max((1 + int(match[1]) for match in found if match), default=0)


def multiples(channels: list[int], width: int, where: str) -> list[int]:
    """Return the channels of each level relative to `width`; InputError for a fraction."""
    for level, number in enumerate(channels):
        if number % width:
            raise InputError(
                f"{where}: expected channels of each level that are a multiple of the first "
                f"convolution's {width}, found {number} at level {level}, which the network does "
                "not hold"
            )
    return [number // width for number in channels]


def shape_of(shapes: Shapes, name: str, where: str, dimensions: int = 4) -> tuple[int, ...]:
    """Return the shape of a tensor that the network has.

    Raises InputError if there is none, or one without elements or of other `dimensions`.
    """
    if name in shapes:
        shape = shapes[name]
        if len(shape) == dimensions and all(shape):
            return shape
        raise InputError(
            f"{where}: {name}: expected a tensor of {dimensions} dimensions with elements, found "
            f"the shape {shape}"
        )
    there = ", ".join(sorted(shapes)[:4])
    raise InputError(
        f"{where}: expected {name} among the tensors, by its name in taming-transformers, found "
        f"{one_line(there, 200)}, ...; is it of this family?"
    )
