"""Small priors whose logits are far from uniform."""

import torch

from imagetok import seeding
from prior.base import Prior
from prior.build import build_prior
from prior.config import (
    ContextConfig,
    GPTConfig,
    HierarchyConfig,
    ModelConfig,
    PixelCNNConfig,
    PixelSNAILConfig,
    PriorConfig,
)

GPT = GPTConfig(layers=2, heads=2, width=16)
ROTARY = GPT.model_copy(update={"positions": "rotary"})
SNAIL = PixelSNAILConfig(width=8, blocks=2, units=2, kernel_size=3, heads=2)
CNN = PixelCNNConfig(width=8, layers=3, head=16)
CONTEXT = ContextConfig(width=6, units=2)
GPTS = HierarchyConfig(top=GPT, bottom=ROTARY, context=CONTEXT)
SNAILS = HierarchyConfig(top=SNAIL, bottom=SNAIL, context=CONTEXT)

# name: model, codes per level, grids, classes
SHAPES = {
    "gpt": (GPT, (7,), ((3, 3),), 3),
    "gpt-rectangular": (GPT, (5,), ((2, 4),), 0),
    "gpt-two-level": (GPT, (4, 9), ((1, 2), (3, 2)), 2),
    "gpt-rotary": (ROTARY, (7,), ((3, 3),), 3),
    "gpt-rotary-two-level": (ROTARY, (4, 9), ((1, 2), (3, 2)), 0),
    "pixelsnail": (SNAIL, (7,), ((3, 3),), 3),
    "pixelsnail-wide": (SNAIL.model_copy(update={"kernel_size": 5}), (5,), ((2, 6),), 0),
    "pixelsnail-tall": (SNAIL.model_copy(update={"blocks": 1, "units": 1}), (4,), ((5, 2),), 2),
    "pixelsnail-column": (SNAIL, (3,), ((4, 1),), 2),
    "pixelsnail-no-attention": (SNAIL.model_copy(update={"attention": False}), (5,), ((3, 4),), 2),
    "pixelsnail-row": (SNAIL, (7,), ((1, 5),), 2),
    "pixelcnn": (CNN, (7,), ((3, 3),), 3),
    "pixelcnn-wide": (CNN, (5,), ((2, 6),), 0),
    "pixelcnn-tall": (CNN, (4,), ((6, 2),), 2),
    "pixelcnn-column": (CNN, (3,), ((4, 1),), 2),
    "pixelcnn-row": (CNN, (3,), ((1, 5),), 2),
    "hierarchy": (SNAILS, (4, 6), ((2, 1), (4, 2)), 2),
    "hierarchy-uneven": (SNAILS.model_copy(update={"top": CNN}), (5, 3), ((1, 2), (3, 5)), 0),
    "hierarchy-pixelcnn": (HierarchyConfig(top=GPT, bottom=CNN), (3, 5), ((2, 2), (4, 4)), 2),
    "hierarchy-gpt": (GPTS, (4, 6), ((2, 1), (3, 2)), 2),
}

DEFAULT = (
    *("gpt", "gpt-rotary-two-level", "pixelsnail", "pixelsnail-row"),
    *("pixelcnn", "hierarchy-uneven", "hierarchy-gpt"),
)
"""One of each mechanism: every model, one and two levels, with and without classes."""


def with_dropout(model: ModelConfig, dropout: float) -> ModelConfig:
    if not isinstance(model, HierarchyConfig):
        return model.model_copy(update={"dropout": dropout})
    parts = ("top", "bottom", "context")
    changed = {p: getattr(model, p).model_copy(update={"dropout": dropout}) for p in parts}
    return model.model_copy(update=changed)


def make_prior(shape: str, dropout: float = 0.1, fingerprint: str = "f" * 64) -> Prior:
    model, num_codes, grids, num_classes = SHAPES[shape]
    config = PriorConfig(
        tokenizer_fingerprint=fingerprint,
        num_codes=num_codes,
        grids=grids,
        num_classes=num_classes,
        class_names=tuple("abc"[:num_classes]),
        model=with_dropout(model, dropout),
    )
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(0, "test")
        prior = build_prior(config)
    draw = seeding.generator(0, "test weights")
    with torch.no_grad():  # as initialised, every logit is almost 0
        for name, parameter in prior.named_parameters():
            if name.endswith("original0"):  # the gains of weight norm
                parameter.mul_(2)
            elif name.endswith(("bias", "condition.weight")):
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.3)
            elif parameter.ndim == 2 and "body." in name:
                parameter.mul_(8)  # GPT's
            elif name.endswith("head.weight") and parameter.ndim == 2:
                parameter.mul_(15)
    return prior.requires_grad_(False).eval()
