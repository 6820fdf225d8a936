"""Small priors, and what they are tested with."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prior_shapes import DEFAULT, SHAPES, make_prior
from representative import slow_but
from torch import Tensor

from imagetok import seeding
from imagetok.config import validate
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from prior.base import Prior
from prior.sequence import Codes


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
