"""Verdicts on codebooks that are well, idle or damaged, and what they are drawn from."""

import copy
import math

import pytest
import torch

from imagetok import seeding
from imagetok.config import validate
from imagetok.data import ArrayImages
from imagetok.evaluation import evaluate_reconstruction
from imagetok.evaluation.codebook_health import (
    code_change_rates,
    codebook_health,
    codebook_state,
    low_perplexity_since,
    uncertainty_perplexity_correlation,
    verdict_of,
)
from imagetok.images import to_unit_range
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer

K = 32


def setting(kind: str, **more: object) -> tuple[Tokenizer, ArrayImages]:
    """A tokenizer and 200 noise images of 4 x 4 codes."""
    network = {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "init": "torch"}
    tree = {
        "image": {"mode": "grey", "height": 8, "width": 8},
        "network": network | {"residual_gain": 0.5},
        "quantizer": {"kind": kind, "num_codes": K, "code_dim": 4, **more},
    }
    seeding.reseed_global(0)
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    pixels = torch.randint(256, (200, 1, 8, 8), dtype=torch.uint8)
    return tokenizer, ArrayImages(pixels, name="noise", split="test", contract=tokenizer.image)


@pytest.fixture
def spread() -> tuple[Tokenizer, ArrayImages]:
    """A VQ-VAE whose codes are encoder outputs: each is the nearest of its own position."""
    tokenizer, dataset = setting("vqvae")
    with torch.no_grad():
        h = tokenizer.encoder(to_unit_range(dataset.images) - 0.5).movedim(1, -1).reshape(-1, 4)
        tokenizer.quantizer.codebook.copy_(h[torch.arange(K) * 5])
    return tokenizer, dataset


def health_and_verdict(tokenizer: Tokenizer, dataset: ArrayImages):
    (health,) = codebook_health(tokenizer, dataset)
    return health, verdict_of(health)


def test_a_spread_codebook_is_healthy(spread):
    health, verdict = health_and_verdict(*spread)
    assert verdict.state == "healthy" and len(verdict.sentences) == 1
    assert health.codes_used == K and health.dead_codes == 0
    tokenizer, dataset = spread
    codes = tokenizer.encode(to_unit_range(dataset.images))[0]
    counts = torch.bincount(codes.flatten(), minlength=K)
    assert torch.equal(health.counts, counts) and int(counts.sum()) == len(dataset) * 16
    shares = counts / counts.sum()
    assert health.perplexity == pytest.approx(
        math.exp(-sum(float(p) * math.log(p) for p in shares if p)), rel=1e-6
    )
    assert health.top_share == pytest.approx(float(shares.max()))
    found = evaluate_reconstruction(tokenizer, dataset)
    assert health.perplexity_batch128 == found["perplexity_batch128"]
    assert health.perplexity_batch32 == found["perplexity_batch32"] < health.perplexity
    with torch.no_grad():
        z_e = tokenizer.encoder(to_unit_range(dataset.images) - 0.5).double()
        squares = (z_e - tokenizer.quantizer.decode((codes,)).double()).square()
    assert found["commitment"] == pytest.approx(float(squares.mean()), rel=1e-5)
    assert found["commitment_norm"] == pytest.approx(float(squares.norm(dim=1).mean()), rel=1e-5)
    assert health.encoder_norms[0] < found["encoder_norm"] < health.encoder_norms[2]
    norms = tokenizer.quantizer.codebook.detach().double().norm(dim=1)
    assert health.norms == pytest.approx(
        tuple(map(float, (norms.min(), norms.median(), norms.max())))
    )


def test_far_codes_are_a_collapse(spread):
    tokenizer, dataset = spread
    with torch.no_grad():
        tokenizer.quantizer.codebook[1:] += 1000
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert (health.codes_used, health.dead_codes, health.top_share) == (1, K - 1, 1.0)
    assert verdict.state == "collapsed"
    assert f"{K - 1} codes are dead" in " ".join(verdict.sentences)
    assert "step 1,200" in " ".join(verdict_of(health, 1200).sentences)


def test_too_few_positions_are_no_collapse(spread):
    tokenizer, dataset = spread
    with torch.no_grad():
        tokenizer.quantizer.codebook[1:] += 1000
    few = ArrayImages(dataset.images[:1], name="one", split="test", contract=tokenizer.image)
    health, verdict = health_and_verdict(tokenizer, few)
    assert int(health.counts.sum()) == 16 < K
    assert verdict.state == "undetermined"
    assert "16 code positions are too few" in verdict.sentences[-1]
    assert codebook_state(1.0, K, K - 1) == "undetermined"
    assert codebook_state(1.0, K, K) == "collapsed"
    assert codebook_state(K / 4, K, K - 1) == "healthy"


@pytest.mark.parametrize("kind", ["vqvae", "vqvae-ema"])
@pytest.mark.parametrize("init", ["uniform", "kmeans"])
@pytest.mark.parametrize("reset", ["none", "random", "least-recently-used", "split"])
def test_advice_is_what_the_config_does_not_do_already(kind, init, reset):
    tokenizer, dataset = setting(kind, init=init, reset={"kind": reset})
    with torch.no_grad():
        tokenizer.quantizer.codebook[1:] += 1000
    health, verdict = health_and_verdict(tokenizer, dataset)
    said = " ".join(verdict.sentences)
    assert verdict.state == "collapsed" and health.dead_codes == K - 1
    assert ("init: kmeans" in said) == (init == "uniform")
    assert ("reset: least-recently-used" in said) == (reset == "none")
    assert ("train longer" in said) == (init == "kmeans" and reset != "none")
    assert ("no updates" in said) == (kind == "vqvae-ema") == ("gradient" not in said)


def test_a_quarter_of_the_codes_is_underused(spread):
    tokenizer, dataset = spread
    with torch.no_grad():
        tokenizer.quantizer.codebook[6:] += 1000
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert health.codes_used == 6 and verdict.state == "underused"


def test_a_row_of_nan_is_broken(spread):
    tokenizer, dataset = spread
    with torch.no_grad():
        tokenizer.quantizer.codebook[3, 1] = math.nan
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert health.not_finite == (3,) and verdict.state == "broken"
    assert "row 3" in verdict.sentences[0] and all(map(math.isfinite, health.norms))


def test_copies_are_broken(spread):
    tokenizer, dataset = spread
    with torch.no_grad():
        tokenizer.quantizer.codebook[7:9] = tokenizer.quantizer.codebook[2]
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert health.copies == 2 and verdict.state == "broken"
    assert "2 exact copies" in verdict.sentences[0]


@pytest.mark.parametrize("kind", ["edvae", "dvae"])
def test_decided_probabilities_are_told_apart_from_uniform_ones(kind):
    tokenizer, dataset = setting(kind)
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert verdict.state != "healthy" and "nearly uniform" in verdict.sentences[-1]
    assert health.logits_above == (0, 0, 0)
    last = tokenizer.encoder.layers[-1]
    with torch.no_grad():
        last.bias.zero_()
        last.bias[0] = 60.0
    health, verdict = health_and_verdict(tokenizer, dataset)
    assert health.entropy is not None and health.entropy < 0.1
    assert health.logits_above[0] >= health.logits_above[1] >= health.logits_above[2] > 0.5
    said = " ".join(verdict.sentences)
    assert ("kl: exact" in said) == (kind == "edvae") and ("weight of the KL" in said) == (
        kind == "dvae"
    )


def test_drift_counts_positions_chosen_anew(spread):
    tokenizer, dataset = spread
    other = copy.deepcopy(tokenizer)
    assert code_change_rates(other, tokenizer, dataset) == (0.0,)
    with torch.no_grad():
        other.quantizer.codebook[[0, 1]] = other.quantizer.codebook[[1, 0]].clone()
    counts = codebook_health(tokenizer, dataset)[0].counts
    expected = float(counts[:2].sum() / counts.sum())
    assert (
        code_change_rates(other, tokenizer, dataset) == pytest.approx((expected,)) and expected > 0
    )


def test_since_when():
    records = [{"step": s, "batch_perplexity": p} for s, p in [(1, 9), (2, 3), (3, 8), (4, 2)]]
    assert low_perplexity_since(records, 0, 1, 5.0) == 4
    assert low_perplexity_since(records, 0, 1, 1.0) is None, "it never fell"
    assert low_perplexity_since(records[:3], 0, 1, 5.0) is None, "it rose again"
    assert low_perplexity_since(records, 0, 1, 10.0) == 1
    assert low_perplexity_since(records, 1, 2, 5.0) is None, "another name"


def test_uncertainty_with_perplexity():
    points = [(0.9, 10.0), (0.5, 20.0), (0.1, 60.0), (0.2, 35.0)]
    records = [{"uncertainty": u, "perplexity_batch128": p, "step": 1.0} for u, p in points]
    expected = float(torch.corrcoef(torch.tensor(points).T)[0, 1])
    assert (
        uncertainty_perplexity_correlation(records, 0, 1) == pytest.approx(expected, rel=1e-5)
        and expected < -0.8
    )
    assert uncertainty_perplexity_correlation(records[:2], 0, 1) is None
    assert uncertainty_perplexity_correlation([records[0]] * 5, 0, 1) is None


@pytest.mark.parametrize(("kind", "sizes"), [("fsq", {"levels": [4, 4]}), ("residual-vq", {})])
def test_what_has_no_codebook_is_examined_too(kind, sizes):
    tokenizer, dataset = setting("vqvae")
    tree = tokenizer.config.model_dump(mode="json") | {"quantizer": {"kind": kind, **sizes}}
    tokenizer = build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()
    for health in codebook_health(tokenizer, dataset):
        said = " ".join(verdict_of(health).sentences)
        assert "kmeans" not in said and "commitment" not in said
        assert (health.norms is None) == (kind == "residual-vq")


def test_advice_for_an_entropy_penalty_is_what_it_has():
    health, verdict = health_and_verdict(*setting("ibq"))
    said = " ".join(verdict.sentences)
    assert verdict.state != "healthy" and health.has_entropy_penalty
    assert "entropy_temperature" in said and "objective.weights.diversity" in said
    assert "objective.temperature" not in said and "KL" not in said
