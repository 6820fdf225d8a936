"""Order 0 and order 1: proper distributions, known values, and when they are put into words."""

import math

import pytest
import torch
from torch.testing import assert_close

from imagetok.codes.schema import LevelUse
from prior.ngram_baselines import NgramCounts, collapse_in_words, ngram_baselines, verdict_in_words


def counted(indices: torch.Tensor, num_codes: int) -> NgramCounts:
    counts = NgramCounts(num_codes)
    for part in indices.split(3):
        counts.add(part)
    return counts


@pytest.fixture
def indices():
    """Codes 0 to 4 of 6, so that one is never seen."""
    return torch.randint(5, (10, 3, 4), generator=torch.Generator().manual_seed(0))


def test_both_are_distributions_after_any_code(indices):
    counts = counted(indices, 6)
    assert_close(counts.unigram().sum().item(), 1.0)
    assert (counts.unigram() > 0).all()
    for first in range(6):
        p = counts.bigram(first * 6 + torch.arange(6))
        assert_close(p.sum().item(), 1.0)
        assert (p > 0).all()


def test_the_estimates_by_hand():
    """0 0 1 / 1 0 1: pairs 00 01 11(down: 0 above 1 -> 01) 10 01."""
    counts = counted(torch.tensor([[[0, 0, 1], [1, 0, 1]]]), 2)
    assert_close(counts.unigram(), torch.tensor([4 / 8, 4 / 8], dtype=torch.float64))
    # after 0: one 0 and three 1, two different; after 1: one 0
    expected = [(1 + 2 * 0.5) / 6, (3 + 2 * 0.5) / 6, (1 + 0.5) / 2, (0 + 0.5) / 2]
    found = counts.bigram(torch.arange(4))
    assert_close(found, torch.tensor(expected, dtype=torch.float64))
    unigram, bigram = counts.bits(torch.tensor([[[1, 0], [1, 1]]]))
    assert_close(unigram, 4.0)
    after = [expected[2], expected[3], expected[3]]  # 1 0, then 1 above 1, then 1 1
    assert_close(bigram, 1.0 - sum(map(math.log2, after)))


def test_counting_in_parts_is_counting_at_once(indices):
    whole, parts = NgramCounts(6), counted(indices, 6)
    whole.add(indices)
    for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))


def test_levels_are_measured_apart_and_independent_codes_gain_nothing():
    draw = torch.Generator().manual_seed(0)
    uniform = torch.randint(4, (4000, 2, 2), generator=draw)
    first = torch.randint(2, (4000, 1, 1), generator=draw)
    constant = first.expand(-1, 3, 3)  # one code an image: after the first all is known
    (low, high) = ngram_baselines(
        (4, 2), iter([(uniform, constant)]), iter([(uniform[:500], constant[:500])])
    )
    assert_close([low.unigram, low.bigram], [2.0, 2.0], atol=0.01, rtol=0)
    assert_close([high.unigram, high.bigram], [1.0, 1 / 9], atol=0.01, rtol=0)


def test_one_code_an_image_has_no_neighbours():
    (level,) = ngram_baselines(
        (3,), iter([(torch.tensor([[[0]], [[1]]]),)]), iter([(torch.tensor([[[2]]]),)])
    )
    assert_close([level.unigram, level.bigram], [math.log2(5)] * 2)


def test_words_for_collapsed_codes():
    assert collapse_in_words(LevelUse(num_codes=128, codes_used=128, perplexity=100.0)) is None
    assert collapse_in_words(LevelUse(num_codes=3, codes_used=2, perplexity=2.0)) is None
    words = collapse_in_words(LevelUse(num_codes=128, codes_used=4, perplexity=3.7))
    assert words is not None and "collapsed: 4 of 128 occur, with perplexity 3.7" in words


def test_words_for_a_prior_that_learned_nothing():
    assert verdict_in_words(2.0, unigram=5.0, bigram=3.0) is None
    assert "has not learned any dependence" in str(verdict_in_words(5.0, unigram=5.0, bigram=3.0))
    assert "has learned little" in str(verdict_in_words(3.0, unigram=5.0, bigram=3.0))
    assert "has learned little" in str(verdict_in_words(4.0, 5.0, 3.0, best=3.5))
    assert "by heart" in str(verdict_in_words(6.0, 5.0, 3.0, best=2.9))
    assert verdict_in_words(2.95, 5.0, 3.0, best=2.9) is None
