"""Labels in vectors: nearest neighbours by brute force, and clusters that a map keeps apart."""

import sys

import pytest
import torch

from imagetok.errors import InputError, ResourceError
from imagetok.evaluation.embedding import neighbour_accuracy, principal, tsne


@pytest.fixture
def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Three balls far from each other, 20 points each."""
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 8, generator=torch.manual_seed(0))
    return noise + 100 * torch.eye(8)[labels], labels


def test_neighbours_know_the_label_of_clusters_and_not_a_random_one(clusters):
    vectors, labels = clusters
    assert neighbour_accuracy(vectors, labels) == 1
    random = torch.randint(3, (60,), generator=torch.manual_seed(1))
    assert 0.1 < neighbour_accuracy(vectors, random) < 0.6


def test_a_vector_is_no_neighbour_of_itself():
    vectors = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert neighbour_accuracy(vectors, torch.tensor([7, 9, 7, 9]), k=1) == 0
    assert neighbour_accuracy(vectors, torch.tensor([7, 7, 9, 9]), k=1) == 1
    with pytest.raises(InputError, match="4 nearest neighbours: expected more vectors, found 4"):
        neighbour_accuracy(vectors, torch.zeros(4, dtype=torch.int64), k=4)


def test_principal_components_keep_distances_and_order(clusters):
    vectors, _ = clusters
    found = principal(vectors)
    distances = torch.cdist(vectors.double(), vectors.double())
    torch.testing.assert_close(torch.cdist(found, found), distances, atol=1e-4, rtol=1e-6)
    deviations = found.std(dim=0)
    assert (deviations[:-1] >= deviations[1:]).all()
    assert torch.equal(principal(vectors, 2), found[:, :2])


def test_the_map_is_the_same_each_time_and_keeps_clusters_apart(clusters):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    vectors, labels = clusters
    found = tsne(vectors)
    assert (found == tsne(vectors)).all()
    assert neighbour_accuracy(torch.from_numpy(found), labels) == 1
    with pytest.raises(InputError, match="at least 4"):
        tsne(vectors[:3])


def test_without_scikit_learn_the_extra_is_named(clusters, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ResourceError, match=r"imagetok\[eval\]"):
        tsne(clusters[0])


def test_equal_vectors_lie_in_one_place():
    """scikit-learn crashes the process on them; a collapsed codebook gives nothing else."""
    assert (tsne(torch.full((8, 3), 0.3)) == 0).all()
