"""Untrained tokenizers of several grids whose codes are well mixed."""

import torch
from torch import Tensor, nn

from imagetok import seeding
from imagetok.config import validate
from imagetok.tokenizers import TokenizerConfig, build_tokenizer
from imagetok.tokenizers.hierarchical import HierarchicalTokenizer


def build_mixed(tree: dict[str, object], images: Tensor, seed: int = 0) -> HierarchicalTokenizer:
    """What every quantizer reads of `images` has mean 0 and deviation 1 in each channel."""
    seeding.reseed_global(seed)
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test"))
    assert isinstance(tokenizer, HierarchicalTokenizer)
    network, context = tokenizer.network, None
    with torch.no_grad():
        features = network.features(tokenizer.likelihood.to_network(images))
        for level, quantizer in enumerate(tokenizer.quantizers):
            nn.init.normal_(quantizer.codebook)
            last = network.read_outs[level]
            std, mean = torch.std_mean(
                network.read_out(level, features[level], context), dim=(0, 2, 3)
            )
            last.weight.div_(std[:, None, None, None])
            last.bias.copy_((last.bias - mean) / std)
            codes = quantizer.encode(network.read_out(level, features[level], context))
            context = network.descend(level, context, quantizer.decode(codes))
    return tokenizer
