"""The facts of a run that do not depend on its images."""

import pytest

from imagetok.comparison.results import method_result
from imagetok.config import load_config, validate
from imagetok.tokenizers import TokenizerConfig, build_autoencoder
from imagetok.training.config import TokenizerRun
from imagetok.training.facts import count_parameters
from imagetok.training.tokenizer import job_on_noise

K, D = 32, 4
SIZES = {"num_codes": K, "code_dim": D}
COUNTS = [
    ("vqvae", SIZES, K * D),
    ("vqvae-ema", SIZES | {"averages": "debiased"}, K * D),
    ("vqvae-ema", SIZES | {"reset": {"kind": "least-recently-used"}, "init": "kmeans"}, K * D),
    ("vq-ste++", SIZES | {"alternation": {}, "affine": None}, K * D),
    ("ibq", SIZES, K * D),
    ("sqvae", SIZES, K * D + 1),  # the variance
    ("edvae", SIZES, K * D),
    ("residual-vq", SIZES | {"num_levels": 3}, 3 * K * D),
    ("rotation-vq", SIZES, K * D),
    ("simvq", SIZES, K * D + D * D),  # the linear map of fixed codes
    ("fsq", {"levels": [3, 4]}, 0),
    ("lfq", {"code_dim": D}, 0),
]


@pytest.mark.parametrize(("kind", "sizes", "count"), COUNTS)
def test_the_parameters_are_those_of_the_networks_and_the_codebooks(kind, sizes, count):
    config = load_config("configs/digits/vqvae-ema.yaml", TokenizerRun)
    tree = config.tokenizer.model_dump(mode="json") | {"quantizer": {"kind": kind, **sizes}}
    tokenizer = build_autoencoder(validate(tree, TokenizerConfig, "test"))
    networks = sum(p.numel() for network in tokenizer.networks() for p in network.parameters())
    assert count_parameters(tokenizer) == networks + count
    assert count_parameters(tokenizer.requires_grad_(False)) == networks + count


def test_training_and_comparison_count_alike():
    config = load_config("configs/digits/vqvae-ema.yaml", TokenizerRun)
    facts = job_on_noise(config).facts
    compared = method_result("a", config, [], build_autoencoder(config.tokenizer), {}, {})
    assert facts is not None and facts.parameters == compared.parameters
