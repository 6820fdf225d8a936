import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from imagetok.evaluation import nearest_labels

SEEDS = st.integers(0, 2**32 - 1)


def sets(seed: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, references = (torch.rand(n, 1, 3, 4, generator=generator) for n in (25, 60))
    return queries, references, torch.randint(num_classes, (60,), generator=generator)


@pytest.mark.parametrize(("k", "num_classes"), [(1, 10), (3, 2), (5, 2), (15, 2), (59, 2)])
@given(seed=SEEDS)
def test_equals_scikit_learn_where_no_votes_tie(k: int, num_classes: int, seed: int) -> None:
    queries, references, labels = sets(seed, num_classes)
    judge = KNeighborsClassifier(k, algorithm="brute").fit(
        references.flatten(1).double().numpy(), labels.numpy()
    )
    expected = judge.predict(queries.flatten(1).double().numpy())
    assert nearest_labels(queries, references, labels, k).tolist() == expected.tolist()


@given(seed=SEEDS)
def test_references_know_themselves(seed: int) -> None:
    _, references, labels = sets(seed, 10)
    assert torch.equal(nearest_labels(references, references, labels, k=1), labels)


def test_ties_go_to_the_class_with_the_nearer_members() -> None:
    references = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1, 1)
    query = torch.zeros(1, 1, 1, 1)
    for labels, winner in [
        ([3, 3, 1, 1], 3),
        ([1, 1, 3, 3], 1),
        ([3, 1, 1, 3], 1),
        ([0, 1, 2, 3], 0),
    ]:
        # 3, 1, 1, 3 ties in votes and in ranks: 1st + 4th = 2nd + 3rd, then the lower class.
        assert nearest_labels(query, references, torch.tensor(labels), k=4).item() == winner


def test_a_majority_is_not_outvoted_by_nearness() -> None:
    references = torch.arange(1, 102).view(101, 1, 1, 1) / 200
    labels = (torch.arange(101) >= 50).long()  # 50 nearer members against 51
    assert nearest_labels(torch.zeros(1, 1, 1, 1), references, labels, k=101).item() == 1
