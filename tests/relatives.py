"""Tokenizers with the codes of another one, as training its decoder alone makes them."""

from pathlib import Path

import torch

from imagetok.tokenizers import Tokenizer, build_tokenizer


def with_new_decoder(ancestor: Path | str, folder: Path, seed: int = 0) -> Tokenizer:
    """Save a tokenizer with the encoder and quantizer of a saved one, and another decoder."""
    source = Tokenizer.from_pretrained(ancestor)
    child = build_tokenizer(source.config)
    child.load_state_dict(source.state_dict())
    child.fix_codes(source)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in child.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    child.save_pretrained(folder)
    return Tokenizer.from_pretrained(folder)
