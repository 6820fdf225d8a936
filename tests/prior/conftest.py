"""Small priors whose logits are far from uniform, and what they are tested with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from representative import slow_but
from torch import Tensor

from imagetok import seeding
from imagetok.config import validate
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
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
from prior.sequence import Codes

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


@pytest.fixture
def named() -> Callable[[str], Prior]:
    """named(shape): the prior of that name, in float32."""
    return make_prior


@pytest.fixture(params=slow_but(DEFAULT, SHAPES))
def prior(request) -> Prior:
    """Each shape in turn, in float64."""
    return make_prior(request.param).double()


@pytest.fixture(params=["gpt", "gpt-rotary", "pixelsnail", "pixelcnn"])
def flat(request) -> Prior:
    """9 positions of 7 codes, 3 classes; float32."""
    return make_prior(request.param)


@pytest.fixture
def unconditional() -> Prior:
    """8 positions of 5 codes, no classes; float32."""
    return make_prior("gpt-rectangular")


@pytest.fixture
def random_codes() -> Callable[..., Codes]:
    """random_codes(prior, n): uniform codes that fit the prior."""

    def draw(prior: Prior, n: int, seed: int = 0) -> Codes:
        generator = seeding.generator(seed, "codes")
        return tuple(
            torch.randint(0, k, (n, *grid), generator=generator)
            for k, grid in zip(prior.config.num_codes, prior.config.grids, strict=True)
        )

    return draw


@pytest.fixture
def position_logits() -> Callable[..., list[Tensor]]:
    """position_logits(prior, codes, labels): (B, K) of every position in sampling order."""

    def logits(prior: Prior, codes: Codes, labels: Tensor) -> list[Tensor]:
        levels = prior(codes, labels)
        return [t for level in levels for t in level.flatten(2).unbind(2)]

    return logits


def make_tokenizer_folder(folder: Path, seed: int) -> Path:
    config = validate(
        {
            "image": {"mode": "grey", "height": 6, "width": 6},
            "network": {"kind": "conv", "width": 16, "groups": 2, "blocks": 1},
            "quantizer": {"kind": "vqvae-ema", "num_codes": 7, "code_dim": 4},
        },
        TokenizerConfig,
        "test",
    )
    with torch.random.fork_rng(devices=[]):
        seeding.reseed_global(seed, "test")
        tokenizer = build_tokenizer(config).eval()
        with torch.no_grad():  # as initialised, every position of every image has the same code
            features = tokenizer.encoder(torch.rand(7, 1, 6, 6) - 0.5)
            tokenizer.quantizer.codebook.copy_(features[:, :, 1, 1])
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    """A tokenizer of 3x3 codes with K = 7, as the flat prior models."""
    return make_tokenizer_folder(tmp_path_factory.mktemp("tokenizers") / "one", seed=0)


@pytest.fixture(scope="session")
def other_tokenizer_folder(tmp_path_factory) -> Path:
    """The same architecture with other weights."""
    return make_tokenizer_folder(tmp_path_factory.mktemp("tokenizers") / "other", seed=1)


@pytest.fixture(params=["gpt", "pixelsnail", "pixelcnn"])
def bound(request, tokenizer_folder) -> Prior:
    """The flat prior, bound to the tokenizer."""
    fingerprint = Tokenizer.from_pretrained(tokenizer_folder).fingerprint
    return make_prior(request.param, fingerprint=fingerprint)
