"""Make tests/imagetok/conversion/data with the authors' code of LlamaGen and taming-transformers.

    git clone https://github.com/FoundationVision/LlamaGen
    git clone https://github.com/CompVis/taming-transformers
    python tests/imagetok/conversion/make_authors_data.py LlamaGen taming-transformers

Small networks with drawn weights encode drawn images. Stored are the names and shapes of the
tensors, the codes, and the images that are decoded from them.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn_weights import drawn_images, drawn_weights
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"


def llamagen(checkout: str) -> Any:
    """Its VQModel with fewer channels and levels."""
    sys.path.insert(0, checkout)
    code = import_module("tokenizer.tokenizer_image.vq_model")
    levels = {"encoder_ch_mult": [1, 2, 2], "decoder_ch_mult": [1, 2, 2]}
    model = code.VQModel(code.ModelArgs(codebook_size=64, z_channels=16, **levels))
    sizes = {"ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "z_channels": 16}
    model.encoder, model.decoder = code.Encoder(**sizes), code.Decoder(**sizes)
    return model


def taming(checkout: str) -> Any:
    """The parts of its VQModel, whose own class needs a trainer."""
    sys.path.insert(0, checkout)
    layers = import_module("taming.modules.diffusionmodules.model")
    quantize = import_module("taming.modules.vqvae.quantize")
    sizes = {
        "ch": 32, "out_ch": 3, "ch_mult": (1, 1, 2), "num_res_blocks": 1, "in_channels": 3,
        "attn_resolutions": [16, 8], "resolution": 32, "z_channels": 16,
    }  # fmt: skip
    model: Any = nn.Module()
    model.encoder, model.decoder = layers.Encoder(double_z=False, **sizes), layers.Decoder(**sizes)
    model.quantize = quantize.VectorQuantizer2(64, 16, beta=0.25)
    model.quant_conv, model.post_quant_conv = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
    return model


@torch.no_grad()
def write(name: str, model: Any, codebook: Callable[[Tensor], Tensor]) -> None:
    """Encode, decode, and store what came out."""
    state = model.state_dict()
    shapes = {k: list(v.shape) for k, v in state.items()}
    stored = {k: v for k, v in shapes.items() if k != "quantize.codebook_used"}
    model.load_state_dict(state | drawn_weights(stored))
    model.eval()
    images = drawn_images() * 2 - 1
    features = model.quant_conv(model.encoder(images))
    _, _, (_, _, indices) = model.quantize(features)
    z_q = codebook(indices.view(len(images), *features.shape[2:]))
    decoded = model.decoder(model.post_quant_conv(z_q))
    codes = indices.view(len(images), *features.shape[2:]).numpy().astype(np.int16)
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(shapes, indent=0) + "\n")
    np.savez_compressed(DATA / f"{name}.npz", codes=codes, decoded=decoded.numpy())
    assert np.unique(codes).size >= 20


if __name__ == "__main__":
    model = llamagen(sys.argv[1])
    write(
        "llamagen",
        model,
        lambda codes: model.quantize.get_codebook_entry(codes, (len(codes), 8, *codes.shape[1:])),
    )
    other = taming(sys.argv[2])
    write(
        "taming",
        other,
        lambda codes: other.quantize.get_codebook_entry(codes, (*codes.shape, 16)),
    )
