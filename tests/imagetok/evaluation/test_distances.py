"""Distances of feature sets against independent formulas, torch-fidelity, and known values."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from imagetok.errors import ConfigError
from imagetok.evaluation.distances import (
    FeatureMoments,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


def draw(count, dim=12, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mix + shift


@pytest.fixture
def sets():
    return draw(300, seed=1), draw(220, shift=0.3, seed=2)


def frechet(one, other):
    return frechet_distance(FeatureMoments.of(one), FeatureMoments.of(other))


def test_frechet_is_the_formula_with_a_general_matrix_root(sets):
    (m1, c1), (m2, c2) = (
        (s.double().mean(0).numpy(), np.cov(s.double().numpy(), rowvar=False)) for s in sets
    )
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(sqrtm(c1 @ c2)))
    assert frechet(*sets) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_one_dimension_is_known():
    one, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [11.0]])  # variances 2 and 32
    assert frechet(one, other) == pytest.approx(6**2 + (math.sqrt(32) - math.sqrt(2)) ** 2)


def test_frechet_of_a_set_with_itself_is_zero_also_with_fewer_images_than_features():
    few = draw(5, dim=12)
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet(few, few + 1) == pytest.approx(12, rel=1e-6)


def test_moments_of_parts_join_to_those_of_the_whole(sets):
    whole = FeatureMoments.of(sets[0])
    parts = [FeatureMoments.of(part) for part in sets[0].split(77)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.join(part)
    assert joined.count == whole.count
    for a, b in zip(joined.gaussian(), whole.gaussian(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_covariances_are_exact_far_from_zero():
    rows = 1e6 + draw(400).double()
    expected = np.cov(rows.numpy(), rowvar=False)
    first, *others = (FeatureMoments.of(part) for part in rows.split(77))
    for part in others:
        first = first.join(part)
    for moments in (FeatureMoments.of(rows), first):
        _, covariance = moments.gaussian()
        np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_kernel_distance_is_the_mean_over_pairs(sets):
    x, y = (s[:80].double() for s in sets)

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    same = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / (80 * 79)
    same += sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / (80 * 79)
    between = sum(k(a, b) for a in x for b in y) / (80 * 80)
    assert kernel_distance(x, y) == pytest.approx(same - 2 * between, rel=1e-9)


@pytest.mark.parametrize("measure", [kernel_distance, precision_recall])
def test_blocks_change_nothing(sets, measure, monkeypatch):
    whole = measure(*sets)
    for module in ("kernel", "precision_and_recall"):
        monkeypatch.setattr(f"imagetok.evaluation.distances.{module}.BLOCK", 37)
    assert measure(*sets) == pytest.approx(whole, rel=1e-9)


def test_precision_and_recall_by_brute_force(sets):
    generated, real = (s[:90].double() for s in sets)

    def radius(members, i):
        distances = sorted(float((members[i] - b).norm()) for b in members)
        return distances[3]  # after itself

    def covered(rows, members):
        radii = [radius(members, i) for i in range(len(members))]
        near = [
            any(float((row - m).norm()) <= r for m, r in zip(members, radii, strict=True))
            for row in rows
        ]
        return sum(near) / len(near)

    expected = covered(generated, real), covered(real, generated)
    assert precision_recall(generated, real) == pytest.approx(expected)
    assert 0 < min(expected) < 1  # the sets are neither apart nor alike


def test_torch_fidelity_agrees(sets):
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    one, other = sets
    theirs = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(one), fid.fid_features_to_statistics(other), False
    )
    assert frechet(one, other) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    theirs = prc.prc_features_to_metric(
        one, other, prc_neighborhood=3, prc_batch_size=100, verbose=False
    )
    expected = theirs["precision"], theirs["recall"]
    assert precision_recall(one, other) == pytest.approx(expected, abs=1e-6)


def test_precision_needs_more_images_than_neighbours():
    with pytest.raises(ConfigError, match="more than k = 3 real images, found 3"):
        precision_recall(draw(10), draw(3))


def test_inception_score_is_one_of_equal_probabilities_and_the_classes_of_sure_ones():
    assert inception_score(torch.zeros(100, 10))[0] == pytest.approx(1)
    sure = 1e3 * torch.eye(10).repeat(10, 1)
    assert inception_score(sure) == (pytest.approx(10), pytest.approx(0))
    by_class = 1e3 * torch.eye(10).repeat_interleave(10, dim=0)
    assert inception_score(by_class) == (pytest.approx(1), pytest.approx(0)), "one class a part"


@pytest.mark.parametrize("count", [3, 10, 103])
def test_inception_score_is_that_of_contiguous_parts(count):
    probabilities = (
        torch.randn(count, 7, generator=torch.manual_seed(0)).double().softmax(dim=1).numpy()
    )
    scores = []
    for i in range(parts := min(10, count)):
        part = probabilities[i * count // parts : (i + 1) * count // parts]
        ratios = np.log(part) - np.log(part.mean(axis=0))
        scores.append(np.exp((part * ratios).sum(axis=1).mean()))
    expected = np.mean(scores), np.std(scores)
    assert inception_score(torch.from_numpy(probabilities).log()) == pytest.approx(expected)


def test_torch_fidelity_agrees_on_the_inception_score_without_its_shuffle():
    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is not installed")
    logits = 3 * torch.randn(103, 7, generator=torch.manual_seed(0))
    theirs = isc.isc_features_to_metric(logits, shuffle=False)
    expected = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert inception_score(logits) == pytest.approx(expected, rel=1e-9)
