from collections.abc import Callable

import pytest

from imagetok import seeding
from imagetok.config import validate
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

TREE = {
    "image": {"mode": "rgb", "height": 8, "width": 12},
    "network": {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "init": "torch"}
    | {"residual_gain": 0.5},
}


@pytest.fixture
def build() -> Callable[..., Tokenizer]:
    """Builds small tokenizers of 8 x 12 RGB images by quantizer kind and seed."""

    def make(kind: str = "edvae", seed: int = 0, **quantizer: object) -> Tokenizer:
        tree = TREE | {"quantizer": {"kind": kind, "num_codes": 16, "code_dim": 4, **quantizer}}
        seeding.reseed_global(seed)
        return build_tokenizer(validate(tree, TokenizerConfig, "test"))

    return make
