"""Doubt beside error: ranks, calibration, what is foreign, and refusals."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from imagetok import seeding
from imagetok.config import validate
from imagetok.data import ArrayImages
from imagetok.errors import ConfigError, InputError
from imagetok.evaluation.uncertainty_scores import (
    auroc,
    binned_error,
    measure_uncertainty,
    noise_images,
    ranks,
    spearman,
    uncertainty_map,
)
from imagetok.images import to_unit_range
from imagetok.quantizers import functional
from imagetok.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer


def tokenizer_of(quantizer: dict) -> Tokenizer:
    network = {"kind": "conv", "width": 8, "groups": 2, "blocks": 1, "init": "torch"}
    tree = {
        "image": {"mode": "grey", "height": 8, "width": 8},
        "network": network | {"residual_gain": 0.5},
        "quantizer": quantizer,
    }
    seeding.reseed_global(0)
    return build_tokenizer(validate(tree, TokenizerConfig, "test")).eval()


VQ = {"kind": "vqvae", "num_codes": 12, "code_dim": 4}


@pytest.fixture
def values() -> np.ndarray:
    """With ties."""
    return np.random.default_rng(0).integers(0, 20, (2, 300)).astype(float)


def test_ranks_and_their_correlation(values):
    x, y = values
    y = y + x
    assert np.array_equal(ranks(x), stats.rankdata(x))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-12)
    assert spearman(x, -x) == pytest.approx(-1) and spearman(x, np.zeros(300)) is None
    with pytest.raises(InputError, match="NaN"):
        ranks(np.array([1.0, np.nan]))


def test_auroc(values):
    inside, outside = values[0], values[1][:77] + 3
    truth = [0] * 300 + [1] * 77
    expected = roc_auc_score(truth, np.concatenate([inside, outside]))
    assert auroc(inside, outside) == pytest.approx(expected, rel=1e-12)
    assert auroc(inside, inside) == pytest.approx(0.5)
    with pytest.raises(InputError, match="both sides"):
        auroc(inside, inside[:0])


def test_calibration_groups_every_position_once():
    uncertainty_score = (
        np.random.default_rng(1).permutation(1003).astype(np.float32).reshape(17, 59, 1)
    )
    found = binned_error(uncertainty_score, 2 * uncertainty_score, groups=10)
    assert (np.diff(found.uncertainty_score) > 0).all()
    np.testing.assert_allclose(found.error, 2000 * found.uncertainty_score)
    sizes = np.array([len(part) for part in np.array_split(np.arange(1003), 10)])
    assert (sizes * found.uncertainty_score).sum() == pytest.approx(1002 * 1003 / 2)


def test_margin_is_the_gap_of_squared_distances():
    seeding.reseed_global(0)
    h, codebook = torch.randn(3, 4, 2, 5).double(), torch.randn(12, 4).double()
    found = functional.nearest_certainty(h, codebook)
    distances = torch.cdist(h.movedim(1, -1).reshape(-1, 4), codebook).square().sort(dim=1).values
    torch.testing.assert_close(found["margin"].flatten(), distances[:, 1] - distances[:, 0])
    torch.testing.assert_close(found["encoder_norm"], h.norm(dim=1))
    one = functional.nearest_certainty(h, codebook[:1])
    assert (one["margin"] == 0).all()


def test_uncertainty_and_error_are_paired_by_position():
    tokenizer = tokenizer_of(VQ)
    dataset = noise_images(tokenizer.image, 150)  # more than a batch
    found = measure_uncertainty(tokenizer, dataset)
    images = to_unit_range(dataset.images)
    squares = (tokenizer.decode(tokenizer.encode(images)) - images).square()[:, 0].numpy()
    cells = squares.reshape(150, 4, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(found.errors["margin"], cells, rtol=1e-4)
    margin = tokenizer.encode_with_certainty(images)[1]["margin"].numpy()
    np.testing.assert_allclose(found.maps["margin"], -margin, rtol=1e-4, atol=1e-6)
    uncertainty_score, error = found.of_images("margin")
    np.testing.assert_allclose(error, squares.mean(axis=(1, 2)), rtol=1e-4)
    assert uncertainty_score.shape == (150,)


def test_edvae_uncertainty_rises_as_its_evidence_falls():
    tokenizer = tokenizer_of({"kind": "edvae", "num_codes": 12, "code_dim": 4})
    dataset = noise_images(tokenizer.image, 20)
    found = measure_uncertainty(tokenizer, dataset)
    assert found.maps.keys() == {"uncertainty", "entropy", "top_logit"}
    before = found.maps["uncertainty"]
    with torch.no_grad():
        tokenizer.encoder.layers[-1].bias += 2
    after = measure_uncertainty(tokenizer, dataset).maps["uncertainty"]
    assert (after < before).all() and (after > 0).all() and (before <= 1).all()


def test_noise_is_uniform_and_always_the_same():
    contract = tokenizer_of(VQ).image
    one, other = noise_images(contract, 40), noise_images(contract, 40)
    assert torch.equal(one.images, other.images) and one.identity() == other.identity()
    counts = torch.bincount(noise_images(contract, 4000).images.flatten().long(), minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_uncertainty_is_shown_before_entropy_and_every_level_of_it():
    names = ("entropy_level0", "entropy_level1", "uncertainty_level1", "top_logit_level0")
    maps = {name: torch.zeros(1, 2, 2) for name in names}
    assert uncertainty_map(maps).keys() == {"uncertainty_level1"}
    del maps["uncertainty_level1"]
    assert uncertainty_map(maps).keys() == {"entropy_level0", "entropy_level1"}
    assert uncertainty_map({"margin": maps["entropy_level0"]}) == {}


def test_what_tells_nothing_is_refused():
    tokenizer = tokenizer_of({"kind": "fsq", "levels": [4, 4]})
    dataset = ArrayImages(
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8), name="x", split="y", contract=tokenizer.image
    )
    with pytest.raises(ConfigError, match=r"this tokenizer \(fsq\) has no uncertainty measure"):
        measure_uncertainty(tokenizer, dataset)
