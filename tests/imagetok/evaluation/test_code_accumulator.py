"""Perplexities of a split and of its batches, and names of those that earlier versions measured."""

import math

import pytest
import torch

from imagetok.evaluation.code_accumulator import CodeAccumulator
from imagetok.evaluation.codebook_health import uncertainty_and_perplexity
from imagetok.evaluation.earlier_measures import renamed

K = 1024


def uniform_codes(images: int, levels: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(K, (images, 7, 7), generator=draw) for _ in range(levels)]


def measured(*levels: torch.Tensor) -> dict[str, float | int]:
    accumulator = CodeAccumulator((K,) * len(levels))
    for batch in zip(*(level.split(128) for level in levels), strict=True):
        accumulator.add(batch, {})
    return accumulator.measures()


def perplexity(codes: torch.Tensor) -> float:
    shares = codes.flatten().bincount().double() / codes.numel()
    return math.exp(-sum(p * math.log(p) for p in shares.tolist() if p))


def test_a_batch_cannot_show_every_code():
    """The codes of MNIST's test images, if all of 1,024 codes are used equally on a 7 x 7 grid."""
    (codes,) = uniform_codes(10_000)
    found = measured(codes)
    assert found["perplexity_batch32"] == pytest.approx(701, abs=1.5)
    assert found["perplexity_batch128"] == pytest.approx(941, abs=1.5)
    assert found["perplexity"] == pytest.approx(1023, abs=0.5)
    with_last = [perplexity(batch) for batch in codes.split(128)]
    assert sum(with_last) / len(with_last) == pytest.approx(935, abs=1.5)  # 16 images, counted as 1


@pytest.mark.parametrize(("images", "counted"), [(5, 5), (128, 128), (130, 128), (300, 256)])
def test_a_smaller_last_batch_of_128_counts_only_alone(images, counted):
    levels = uniform_codes(images, levels=2)
    found = measured(*levels)
    for i, codes in enumerate(levels):
        for size, part in ((128, codes[:counted]), (32, codes)):
            expected = [perplexity(batch) for batch in part.split(size)]
            assert found[f"perplexity_batch{size}_level{i}"] == pytest.approx(
                sum(expected) / len(expected), rel=1e-12
            )


def test_a_measure_that_meant_something_else_is_renamed():
    old = {"num_images": 180, "mse": 0.1, "perplexity": 3.0, "perplexity_batch128": 2.0}
    assert renamed(old) == {
        "num_images": 180, "mse": 0.1, "perplexity": 3.0, "perplexity_batch128_all": 2.0
    }  # fmt: skip
    assert renamed(renamed(old)) == renamed(old)
    levels = {"num_images": 180, "perplexity_batch128_level1": 2.0}
    assert renamed(levels).keys() == {"num_images", "perplexity_batch128_all_level1"}


@pytest.mark.parametrize(
    "same", [{"num_images": 256}, {"num_images": 100}, {"num_images": 180, "perplexity_batch32": 1}]
)
def test_a_measure_that_means_the_same_keeps_its_name(same):
    measures = {**same, "perplexity_batch128": 2.0}
    assert renamed(measures) == measures


def test_uncertainty_goes_with_one_definition_of_perplexity():
    old = {"uncertainty": 0.5, "perplexity_batch128_all": 2.0}
    new = {"uncertainty": 0.4, "perplexity_batch128": 3.0}
    assert uncertainty_and_perplexity([old, old], 0, 1) == [(0.5, 2.0)] * 2
    assert uncertainty_and_perplexity([old, new], 0, 1) == [(0.4, 3.0)]
