"""The logits of every prior: causal, the same step by step, a distribution over each level."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from imagetok.errors import InputError
from prior.base import NO_LABEL, Prior, bits_per_code, negative_log_likelihood
from prior.sequence import flatten_codes, unflatten_codes


def some_labels(prior: Prior, n: int) -> torch.Tensor:
    """Every class in turn, and no class."""
    classes = [*range(prior.config.num_classes), NO_LABEL]
    return torch.tensor([classes[i % len(classes)] for i in range(n)])


def test_a_code_changes_the_logits_after_it_and_none_before(prior, random_codes, position_logits):
    codes, labels = random_codes(prior, 2), some_labels(prior, 2)
    before = position_logits(prior, codes, labels)
    length = prior.config.length
    for t in range(length):
        sequence = flatten_codes(codes)
        level = 0 if t < math.prod(prior.config.grids[0]) else 1
        sequence[:, t] = (sequence[:, t] + 1) % prior.config.num_codes[level]
        after = position_logits(prior, unflatten_codes(sequence, prior.config.grids), labels)
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert all(same[: t + 1])
        if getattr(prior.config.model, "attention", True):  # convolutions alone see less far
            assert not any(same[t + 1 :])


def test_the_class_changes_all_logits(random_codes, position_logits, flat):
    codes = random_codes(flat, 1)
    by_class = [position_logits(flat, codes, torch.tensor([c])) for c in (0, 1, 2, NO_LABEL)]
    for one, other in itertools.combinations(by_class, 2):
        for a, b in zip(one, other, strict=True):
            assert not torch.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_step_by_step_equals_all_at_once(dtype, atol, prior, random_codes, position_logits):
    prior = prior.to(dtype)
    codes, labels = random_codes(prior, 3), some_labels(prior, 3)
    sequence = flatten_codes(codes)
    stepper = prior.stepper(labels)
    for t, expected in enumerate(position_logits(prior, codes, labels)):
        found = stepper.next_logits(sequence[:, t - 1] if t else None)
        assert found.dtype == dtype
        assert_close(found, expected, atol=atol, rtol=0)


def test_logits_are_over_the_codes_of_their_level(prior, random_codes):
    levels = prior(random_codes(prior, 2), some_labels(prior, 2))
    shapes = zip(prior.config.num_codes, prior.config.grids, strict=True)
    assert [tuple(level.shape) for level in levels] == [(2, k, *grid) for k, grid in shapes]


def test_log_prob_is_the_sum_of_the_log_softmax_at_the_codes(prior, random_codes, position_logits):
    codes, labels = random_codes(prior, 3), some_labels(prior, 3)
    expected = torch.zeros(3, dtype=torch.float64)
    logits = position_logits(prior, codes, labels)
    for at, drawn in zip(logits, flatten_codes(codes).unbind(1), strict=True):
        for b in range(3):
            expected[b] += at[b, drawn[b]] - at[b].exp().sum().log()
    assert_close(prior.log_prob(codes, labels).double(), expected, atol=1e-4, rtol=0)
    assert_close(
        bits_per_code(negative_log_likelihood(prior(codes, labels), codes)).double(),
        -expected.sum() / (3 * prior.config.length * math.log(2)),
        atol=1e-5,
        rtol=0,
    )


def test_the_map_of_log_prob_is_of_each_code_at_its_place(prior, random_codes, position_logits):
    codes, labels = random_codes(prior, 3), some_labels(prior, 3)
    maps = prior.log_prob_map(codes, labels)
    assert [tuple(level.shape) for level in maps] == [tuple(level.shape) for level in codes]
    logits = position_logits(prior, codes, labels)
    values = torch.cat([level.flatten(1) for level in maps], dim=1)
    for at, drawn, found in zip(
        logits, flatten_codes(codes).unbind(1), values.unbind(1), strict=True
    ):
        expected = at.log_softmax(1).gather(1, drawn[:, None])[:, 0]
        assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert_close(prior.log_prob(codes, labels), values.sum(1))


def test_log_prob_without_labels_is_that_of_no_class(prior, random_codes):
    codes = random_codes(prior, 2)
    assert torch.equal(prior.log_prob(codes), prior.log_prob(codes, torch.full((2,), NO_LABEL)))


def test_the_probabilities_of_all_images_sum_to_one(prior):
    """Over every continuation of a fixed beginning: the last two positions."""
    *_, k = prior.config.num_codes
    count, length = k * k, prior.config.length
    sequence = torch.zeros(count, length, dtype=torch.int64)
    sequence[:, -2] = torch.arange(count) // k
    sequence[:, -1] = torch.arange(count) % k
    labels = some_labels(prior, 1).expand(count)
    codes = unflatten_codes(sequence, prior.config.grids)
    nll = negative_log_likelihood(prior(codes, labels), codes)
    # cross_entropy is float32
    assert_close(torch.exp(-nll[:, -2:].sum(1)).sum().item(), 1.0, atol=1e-6, rtol=0)
    assert torch.equal(nll[:, :-2], nll[:1, :-2].expand(count, -1))


def test_labels_that_do_not_exist_are_refused(flat, random_codes):
    codes = random_codes(flat, 1)
    for label in (3, -2):
        with pytest.raises(InputError, match=r"labels in \[-1, 3\)"):
            flat.log_prob(codes, torch.tensor([label]))


def test_a_class_asked_of_a_prior_without_classes_is_refused(unconditional, random_codes):
    with pytest.raises(InputError, match="trained without classes"):
        unconditional.log_prob(random_codes(unconditional, 1), torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
@pytest.mark.usefixtures("untyped")
def test_codes_of_any_integer_type_are_as_likely(flat, random_codes, dtype):
    codes = random_codes(flat, 2)
    small = tuple(level.to(dtype) for level in codes)
    assert torch.equal(flat.log_prob(small), flat.log_prob(codes))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (torch.tensor([0.0, 1.0]), r"integer tensor of shape \(B,\), found torch\.float32"),
        ([0, 1], "integer tensor of shape .*found list"),
        (torch.tensor(0), "integer tensor of shape"),
        (torch.tensor([0]), "a label for each of 2 images, found 1"),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_what_is_no_label_per_image_is_refused(flat, random_codes, labels, says):
    with pytest.raises(InputError, match=says):
        flat.log_prob(random_codes(flat, 2), labels)


def test_codes_that_do_not_fit_are_refused(flat, random_codes):
    flat.check_codes(random_codes(flat, 2))
    with pytest.raises(InputError, match=r"codes of shape \(B, 3, 3\), found"):
        flat.check_codes((torch.zeros(2, 3, 4, dtype=torch.int64),))
    for wrong in (-1, 7):
        with pytest.raises(InputError, match=r"codes in \[0, 7\)"):
            flat.check_codes((torch.full((2, 3, 3), wrong),))


def test_codes_that_are_no_integers_are_refused(flat, untyped):
    with pytest.raises(InputError, match=r"integer codes, found torch\.float32"):
        flat.log_prob((torch.zeros(2, 3, 3),))
